// Package format prints what --json prints by a template of Go's text/template, for scripts
// that want a part of it. Keys are those of the JSON object.
package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode"
)

// Template is what somebody wants to see.
type Template struct{ t *template.Template }

// Parse reads a template. Beside the functions of text/template there are join, which joins
// a list by a separator, and json, which prints a value as JSON. A text without any {{ }} is
// the name of a format, of which there are none.
func Parse(text string) (*Template, error) {
	if !strings.Contains(text, "{{") {
		return nil, fmt.Errorf("%q has no {{ }} in it: want a template as {{.name}}; --json prints JSON", text)
	}
	t, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"json": asJSON, "join": join}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: want a template as {{.name}}, with the keys of --json", strings.TrimPrefix(err.Error(), "template: "))
	}
	return &Template{t}, nil
}

// Execute prints v, what can be JSON: of a list each element, with a line feed behind each.
func (t *Template) Execute(w io.Writer, v any) error {
	value, err := decoded(v)
	if err != nil {
		return err
	}
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	for _, element := range list {
		var out bytes.Buffer
		if err := t.t.Execute(&out, element); err != nil {
			return explained(err, element)
		}
		if _, err := fmt.Fprintln(w, strings.Map(printable, out.String())); err != nil {
			return err
		}
	}
	return nil
}

// decoded is v as JSON has it: whole numbers are int64, others float64.
func decoded(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var value any
	if err := d.Decode(&value); err != nil {
		return nil, err
	}
	return numbered(value), nil
}

// numbered has numbers in the place of their texts.
func numbered(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case []any:
		for i := range v {
			v[i] = numbered(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = numbered(v[key])
		}
	}
	return v
}

// printable leaves out what could steer a terminal: host names are the guests' words.
func printable(r rune) rune {
	if unicode.IsPrint(r) || r == '\n' || r == '\t' {
		return r
	}
	return '?'
}

// noKey is what text/template says of a key that there is not.
var noKey = regexp.MustCompile(`map has no entry for key ("[^"]*")`)

// explained says of a template that fails what would be right.
func explained(err error, element any) error {
	object, isObject := element.(map[string]any)
	if found := noKey.FindStringSubmatch(err.Error()); found != nil && isObject {
		return fmt.Errorf("--format: there is no key %s: want one of %s", found[1], strings.Join(slices.Sorted(maps.Keys(object)), ", "))
	}
	return fmt.Errorf("--format: %s", strings.TrimPrefix(err.Error(), "template: "))
}

// asJSON is a value as JSON.
func asJSON(v any) (string, error) {
	text, err := json.Marshal(v)
	return string(text), err
}

// join joins a list by a separator.
func join(separator string, list []any) string {
	texts := make([]string, 0, len(list))
	for _, v := range list {
		texts = append(texts, fmt.Sprint(v))
	}
	return strings.Join(texts, separator)
}
