// The strings of the page, and the catalogues of po/ brought up to date with them: new strings
// come without a translation, those that are gone go.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { po } from "gettext-parser";

const here = dirname(fileURLToPath(import.meta.url));
const text = '"((?:[^"\\\\]|\\\\.)*)"';
const one = new RegExp(`\\b_\\(\\s*${text}\\s*\\)`, "g");
const many = new RegExp(`ngettext\\(\\s*${text},\\s*${text}`, "g");

/** All strings of the page and its entry of the menu: msgid, and msgid_plural where there is one, with the file of each. */
export function strings() {
    const found = new Map();
    const add = (file, id, plural) => { if (!found.has(id)) found.set(id, { msgid: id, msgid_plural: plural, file }); };
    for (const file of readdirSync(join(here, "src")).filter(name => /\.tsx?$/.test(name)).sort()) {
        const source = readFileSync(join(here, "src", file), "utf8");
        for (const [, id] of source.matchAll(one)) add("src/" + file, JSON.parse(`"${id}"`));
        for (const [, id, plural] of source.matchAll(many)) add("src/" + file, JSON.parse(`"${id}"`), JSON.parse(`"${plural}"`));
    }
    const { menu } = JSON.parse(readFileSync(join(here, "manifest.json"), "utf8"));
    for (const { label } of Object.values(menu)) add("manifest.json", label);
    return found;
}

/** The languages of po/. */
export const languages = () => readdirSync(join(here, "po")).filter(name => name.endsWith(".po")).map(name => name.slice(0, -3));

/** A catalogue as gettext-parser reads it. */
export const catalogue = language => po.parse(readFileSync(join(here, "po", language + ".po")));

function update(language) {
    const file = catalogue(language);
    const old = file.translations[""];
    file.translations[""] = { "": old[""] };
    for (const [id, { msgid_plural, file: reference }] of strings()) {
        const plurals = Number(/nplurals=(\d+)/.exec(file.headers["Plural-Forms"])[1]);
        file.translations[""][id] = { msgid: id, msgid_plural, msgstr: old[id]?.msgstr ?? Array(msgid_plural ? plurals : 1).fill(""), comments: { reference } };
    }
    writeFileSync(join(here, "po", language + ".po"), po.compile(file, { foldLength: 0 }));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) languages().forEach(update);
