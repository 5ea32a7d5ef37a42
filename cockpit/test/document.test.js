// Holds that the form's documents are those of `vnetctl new`, and that a subnet that is none is
// refused before anybody is asked.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const vnetctl = (input, ...args) => execFileSync(process.env.VNETCTL, args, { encoding: "utf8", input });

globalThis.cockpit = { gettext: text => text, format: (text, ...args) => text.replace(/\$(\d)/g, (_, i) => String(args[i])) };

let form, dir;
before(async () => {
    dir = mkdtempSync(join(tmpdir(), "document-"));
    const outfile = join(dir, "document.mjs");
    await build({ entryPoints: [join(here, "../src/document.ts")], bundle: true, format: "esm", platform: "neutral", mainFields: ["module", "main"], outfile });
    form = await import(pathToFileURL(outfile).href);
});
after(() => rmSync(dir, { recursive: true, force: true }));

// made is what vnetd keeps of a network, without what is another each time.
function made(define) {
    define();
    try {
        return vnetctl("", "cat", "form").replace(/<uuid>.*<\/uuid>|<mac [^>]*>/g, "");
    } finally {
        vnetctl("", "undefine", "form");
    }
}

describe("the form", () => {
    for (const [mode, subnet, subnet6, domain] of [
        ["nat", "192.168.60.0/24", "none", ""],
        ["nat", "auto", "none", "vm.example"],
        ["nat", "10.9.0.0/30", "fd00:60::/64", ""],
        ["nat", "192.168.60.128/25", "2001:db8:60::/64", ""],
        ["route", "172.31.0.0/16", "2001:db8:61::/112", "a.b.example"],
        ["open", "192.168.61.1/24", "none", ""],
        ["none", "auto", "fd00:62::/64", ""],
        ["none", "none", "none", ""],
    ]) {
        it(`makes what vnetctl new makes: ${mode}, ${subnet}, ${subnet6}`, () => {
            const own = made(() => vnetctl(form.newDocument({ name: "form", mode, subnet, subnet6, domain }), "define", "-"));
            const words = ["--mode", mode === "none" ? "isolated" : mode, "--subnet", subnet, "--ipv6", subnet6, ...(domain ? ["--domain", domain] : [])];
            assert.equal(own, made(() => vnetctl("", "new", "form", ...words)));
        });
    }

    it("keeps special characters of words as they are", () => {
        assert.match(form.newDocument({ name: "a<b>&'\"", mode: "none", subnet: "none", subnet6: "none", domain: "" }), /<name>a&#60;b&#62;&#38;&#39;&#34;<\/name>/);
    });

    it("says what is wrong with a subnet", () => {
        for (const [family, text, want] of [
            [4, "auto", /^$/], [4, "none", /^$/], [4, "192.168.50.0/24", /^$/], [6, "fd00:50::/64", /^$/],
            [4, "", /no subnet/], [4, "192.168.50.0", /no subnet/], [4, "192.168.50.0/33", /no subnet/], [4, "192.168.500.0/24", /no subnet/],
            [4, "fd00::/64", /other family.*192\.168\.50\.0\/24/], [6, "10.0.0.0/8", /other family.*fd00:50::\/64/],
            [4, "10.0.0.0/31", /1 to 30/], [4, "0.0.0.0/0", /1 to 30/], [6, "fd00::/113", /1 to 112/],
        ]) assert.match(form.subnetFault(family, text), want, text);
    });

    it("says what is wrong with a name", () => {
        for (const [text, want] of [["web", /^$/], ["", /needs a name/], ["a/b", /slash/], [".hidden", /dot/]]) assert.match(form.nameFault(text), want, text);
    });
});
