# Makes vnetd.toml(5) of configs/vnetd.toml, where each key stands below the
# comment that explains it.

# sentences prints a text with each sentence on a line of its own, as mdoc(7)
# wants it.
function sentences(text) {
	gsub(/\\/, "\\e", text)
	while (match(text, /[.:] [A-Z`]/)) {
		line(substr(text, 1, RSTART))
		text = substr(text, RSTART + 2)
	}
	line(text)
}

# line prints a text in lines of at most 78 characters. One that begins with a dot
# or a quote would be a request.
function line(text,   words, n, i, out) {
	n = split(text, words, " ")
	for (i = 1; i <= n; i++) {
		if (out != "" && length(out) + length(words[i]) > 76) {
			print out
			out = ""
		}
		if (out == "" && words[i] ~ /^[.']/)
			words[i] = "\\&" words[i]
		out = out (out == "" ? "" : " ") words[i]
	}
	print out
}

BEGIN {
	print ".\\\" Made by docs/man/vnetd.toml.5.awk of configs/vnetd.toml."
	print ".Dd November 21, 2026"
	print ".Dt VNETD.TOML 5"
	print ".Os"
	print ".Sh NAME"
	print ".Nm vnetd.toml"
	print ".Nd configuration of vnetd"
	print ".Sh SYNOPSIS"
	print ".Pa /etc/vnetd/vnetd.toml"
	print ".Sh DESCRIPTION"
	print "The file is read by"
	print ".Xr vnetd 8"
	print "when it starts."
	line("It is written in TOML; a file that is absent, or leaves a key out, stands for the defaults.")
	print "An unknown key, or a value that can't be, keeps"
	print ".Xr vnetd 8"
	print "from starting: every fault is told with its key, and"
	print ".Ic vnetd --check"
	print "tells them without starting anything."
	print ".Pp"
	line("With other directories than the default ones, a drop-in of the unit must name them in")
	print ".Li ReadWritePaths= ,"
	print "and they must belong to the user vnetd."
	print ".Ss Keys above all sections"
	print ".Bl -tag -width Ds"
}

NR == 1, /^$/ { next } # what the file says about itself

# A section of which there is none by default stands behind #, without a blank.
/^#(\[|[a-z_]+ = )/ { sub(/^#/, "") }

/^#/ {
	sub(/^# ?/, "")
	comment = comment (comment == "" ? "" : " ") $0
	next
}

/^\[/ {
	gsub(/[][]/, "")
	print ".El"
	print ".Ss Section " $0
	if (comment != "") sentences(comment)
	comment = ""
	print ".Bl -tag -width Ds"
	next
}

/ = / {
	key = $1
	value = substr($0, index($0, " = ") + 3)
	gsub(/"/, "\\(dq", value)
	print ".It Ic " key " = " value
	sentences(comment == "" ? "See the key above." : comment)
	comment = ""
}

END {
	print ".El"
	print ".Sh FILES"
	print ".Bl -tag -width Ds"
	print ".It Pa /etc/vnetd/vnetd.toml"
	print "The file."
	print "As installed it shows every key with its default."
	print ".El"
	print ".Sh SEE ALSO"
	print ".Xr vnetctl 1 ,"
	print ".Xr vnetd 8"
}
