// Holds that every string of the page is translated, with the same places for arguments.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { catalogue, languages, strings } from "../po.js";

const places = text => [...text.matchAll(/\$\d/g)].map(m => m[0]).sort();

describe("the catalogues", () => {
    for (const language of languages()) {
        it(`${language} has all strings of the page, and no other`, () => {
            const have = catalogue(language).translations[""];
            const want = strings();
            assert.ok(want.size > 200, `only ${want.size} strings were found`);
            assert.deepEqual([...want.keys()].filter(id => !have[id]?.msgstr.every(s => s)), [], "not translated: run npm run po, and fill them in");
            assert.deepEqual(Object.keys(have).filter(id => id && !want.has(id)), [], "no longer used: run npm run po");
        });
        it(`${language} has the arguments of each string`, () => {
            for (const { msgid, msgstr } of Object.values(catalogue(language).translations[""])) {
                if (msgid) for (const s of msgstr) assert.deepEqual(places(s), places(msgid), `"${msgid}" is "${s}"`);
            }
        });
    }
});
