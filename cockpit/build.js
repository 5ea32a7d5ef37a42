// Builds the page into the folder that is given, ../bin/cockpit without one: what is to be
// installed as /usr/share/cockpit/vnetd.
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { po } from "gettext-parser";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "../bin/cockpit"));

// Fonts are the host's, as other pages of Cockpit have them: nothing is loaded twice, and
// nothing from elsewhere. What else a style sheet names, the page does not use.
const hostFonts = {
    name: "host-fonts",
    setup(b) {
        b.onResolve({ filter: /\.woff2?$/ }, args => ({
            path: "../../static/fonts/" + basename(args.path).replace(/VF(-Italic)?\.woff2$/, (_, italic) => (italic ? "-Italic" : "-Regular") + ".woff2"),
            external: true,
        }));
        b.onResolve({ filter: /\.(svg|jpg|png)$/ }, args => ({ path: args.path, external: true }));
    },
};

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const result = await build({
    absWorkingDir: here,
    entryPoints: { index: "src/index.tsx" },
    outdir: out,
    bundle: true,
    minify: true,
    sourcemap: false,
    legalComments: "none", // licences.txt has them
    metafile: true,
    target: ["es2021"],
    define: { "process.env.NODE_ENV": '"production"' },
    plugins: [hostFonts],
    logLevel: "warning",
});
// Cockpit serves NAME.gz where NAME is asked for.
for (const name of ["index.css", "index.js"]) {
    writeFileSync(join(out, name + ".gz"), gzipSync(readFileSync(join(out, name)), { level: 9 }));
    rmSync(join(out, name));
}
for (const name of ["manifest.json", "src/index.html"]) {
    copyFileSync(join(here, name), join(out, basename(name)));
}
for (const name of readdirSync(join(here, "po")).filter(name => name.endsWith(".po"))) {
    const language = basename(name, ".po");
    writeFileSync(join(out, `po.${language}.js`), catalogue(language, readFileSync(join(here, "po", name))));
}
// Cockpit asks for the catalogue of the reader's language by this name; English has none.
writeFileSync(join(out, "po.js"), "");
writeFileSync(join(out, "licences.txt"), licences(result.metafile));

// catalogue is a PO file as cockpit.locale() takes it. A string without translation is left out.
function catalogue(language, text) {
    const { headers, translations } = po.parse(text);
    const plural = /nplurals=(\d+);\s*plural=([^;]+);/.exec(headers["Plural-Forms"] ?? "");
    const strings = {};
    for (const messages of Object.values(translations)) {
        for (const { msgid, msgstr, comments } of Object.values(messages)) {
            if (msgid && msgstr.every(s => s) && !/fuzzy/.test(comments?.flag ?? "")) strings[msgid] = [null, ...msgstr];
        }
    }
    const header = `"": {"plural-forms": n => ${plural?.[2] ?? "n != 1"}, "language": "${language}", "language-direction": "ltr"}`;
    return `cockpit.locale({${header}, ${JSON.stringify(strings).slice(1)});\n`;
}

// licences are the texts of the packages that became part of the page, which their licences ask for.
function licences(metafile) {
    const packages = new Set();
    for (const file of Object.keys(metafile.inputs)) {
        const name = /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file);
        if (name) packages.add(name[1]);
    }
    let text = "";
    for (const name of [...packages].sort()) {
        const dir = join(here, "node_modules", name);
        const about = JSON.parse(readFileSync(join(dir, "package.json"), "utf8"));
        text += `== ${name} ${about.version}: ${about.license}\n\n`;
        for (const file of readdirSync(dir).filter(f => /^(licen[sc]e|copying|notice)/i.test(f)).sort()) {
            text += readFileSync(join(dir, file), "utf8").trim() + "\n\n";
        }
    }
    return text;
}
