// What a person does on the page, done in a real browser. test/e2e-cockpit prepares the host
// and says by the environment where Cockpit is.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { chromium } from "playwright-core";

const { ADMIN, VISITOR, CONTROL, PICTURES, VNETCTL } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const place = "/cockpit/@localhost/vnetd/index.html";

const run = (program, ...args) => execFileSync(program, args, { encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
const vnetctl = (...args) => run(VNETCTL, ...args);
const control = async verb => {
    const answer = await fetch(CONTROL + verb, { method: "POST" });
    assert.ok(answer.ok, `${verb}: ${answer.status} ${await answer.text()}`);
};

let browser;
const complaints = []; // of the browser, about any page

async function blank(options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-US", reducedMotion: "reduce", ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(20000);
    return page;
}

async function open(origin, hash = "", options = {}) {
    const page = await blank(options);
    page.on("console", message => { if (message.type() === "error") complaints.push(message.text()); });
    page.on("pageerror", error => complaints.push(String(error)));
    await page.goto(origin + place + hash);
    return page;
}

const tab = (page, name) => page.getByRole("navigation", { name: "Parts of the page" }).getByRole("link", { name: new RegExp("^" + name) }).click();
const dialog = page => page.getByRole("dialog");
const toast = (page, text) => page.getByRole("list", { name: "Messages" }).getByText(text);
const closeToasts = async page => {
    const buttons = page.getByRole("list", { name: "Messages" }).getByRole("button", { name: "Close" });
    for (let n = await buttons.count(); n > 0; n = await buttons.count()) {
        await buttons.first().click({ timeout: 1000 }).catch(() => {}); // it may have gone by itself
    }
};

// still waits until nothing fades in or moves any more.
const still = page => page.evaluate(() => Promise.allSettled(document.getAnimations()
    .filter(a => a.effect.getComputedTiming().iterations !== Infinity).map(a => a.finished)));

// clean holds that nothing stands in the way of somebody who can't see or has no mouse.
async function clean(page, what) {
    await still(page);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    const list = violations.map(v => `${v.id}: ${v.help}\n` + v.nodes.slice(0, 3).map(n => `    ${n.html}\n    ${n.failureSummary.replaceAll("\n", " ")}`).join("\n")).join("\n");
    assert.equal(list, "", `${what} in axe's eyes`);
}

// picture keeps a screenshot, and holds that something is on it and that nothing failed.
async function picture(page, name) {
    assert.equal(await page.getByRole("list", { name: "Messages" }).locator(".pf-m-danger").count(), 0, `${name} shows an error`);
    await still(page);
    assert.ok((await page.locator("#page").innerText()).trim().length > 40, `${name} is empty`);
    await page.screenshot({ path: `${PICTURES}/${name}.png` });
}

before(async () => {
    browser = await chromium.launch({
        executablePath: "/usr/bin/chromium",
        args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--no-first-run"],
    });
});
after(async () => { await browser?.close(); });

// step is a test that shows what was on the page when it failed.
const step = (name, page, work) => it(name, async () => {
    try {
        await work(page());
    } catch (error) {
        await page().screenshot({ path: `${PICTURES}/failed-${name.replace(/\W+/g, "-")}.png` }).catch(() => {});
        console.log(`${name}: on the page was\n` + await page().locator("body").ariaSnapshot().catch(String));
        await page().keyboard.press("Escape").catch(() => {});
        throw error;
    }
});

// guest plugs a guest into a bridge that asks for an address and goes on; it returns the address.
function guest(bridge, name, mac) {
    run("ip", "netns", "add", name);
    run("ip", "link", "add", "v-" + name, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", name);
    run("ip", "link", "set", "v-" + name, "master", bridge, "up");
    run("ip", "-n", name, "link", "set", "eth0", "up");
    writeFileSync("/run/dhcp.sh", "#!/bin/sh\n[ \"$1\" != bound ] || { ip addr add $ip/$mask dev $interface; ip route add default via $router; echo $ip; }\n", { mode: 0o755 });
    return run("ip", "netns", "exec", name, "busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", "eth0", "-x", "hostname:" + name, "-s", "/run/dhcp.sh").trim();
}

const plugIn = (network, name) => control(`/guest?network=${network}&name=${name}`);

const networks = () => JSON.parse(vnetctl("list", "--json"));
const network = name => networks().find(n => n.name === name);
const row = (page, table, name) => page.getByRole("grid", { name: table, exact: true }).getByRole("row").filter({ hasText: name });

async function until(what, probe) {
    for (let i = 0; i < 200; i++) {
        if (await probe()) return;
        await new Promise(resolve => setTimeout(resolve, 100));
    }
    assert.fail(what + ": not within twenty seconds");
}

describe("the page", () => {
    let page;
    before(async () => { page = await open(ADMIN); });
    const does = (name, work) => step(name, () => page, work);

    does("is opened on a host without networks", async page => {
        await page.getByRole("heading", { name: "Picture" }).waitFor();
        await picture(page, "overview-empty");
        for (const name of ["Networks", "Ports", "Leases", "Forwards", "Conditions", "Log"]) {
            await tab(page, name);
            await page.locator("h2.pf-v6-c-empty-state__title-text, .pf-v6-c-empty-state h2").first().waitFor();
            await picture(page, name.toLowerCase() + "-empty");
            await clean(page, name + " without anything");
        }
    });

    does("makes a network by the form", async page => {
        await tab(page, "Networks");
        await page.getByRole("button", { name: "New network" }).click();
        await dialog(page).getByLabel("IPv4 subnet").fill("192.168.50.0/33");
        await dialog(page).getByText('"192.168.50.0/33" is no subnet').waitFor();
        assert.ok(await dialog(page).getByRole("button", { name: "Create" }).isDisabled(), "a faulty form can be sent");
        await dialog(page).getByRole("button", { name: "Cancel" }).click();
        await dialog(page).waitFor({ state: "detached" });

        await page.getByRole("button", { name: "New network" }).click();
        await dialog(page).getByLabel("Name").fill("web");
        await dialog(page).getByLabel("Mode").selectOption("nat");
        await dialog(page).getByLabel("IPv4 subnet").fill("192.168.50.0/24");
        await dialog(page).getByLabel("IPv6 subnet").fill("auto");
        await dialog(page).getByLabel("DNS domain of the guests").fill("web.example");
        await clean(page, "the form");
        await picture(page, "new-network");
        await dialog(page).getByRole("button", { name: "Create" }).click();
        await toast(page, "Network web is defined").waitFor();
        await row(page, "Networks", "web").getByText("Active").waitFor();
        const made = network("web");
        assert.equal(made.state, "active");
        const xml = vnetctl("cat", "web");
        for (const want of ["address='192.168.50.1'", "start='192.168.50.2' end='192.168.50.254'", "web.example", "<nat ipv6='yes'", "address='fd"]) assert.ok(xml.includes(want), `${want} is not in ${xml}`);
        await closeToasts(page);
    });

    does("shows what vnetd says of a name that is taken", async page => {
        await page.getByRole("button", { name: "New network" }).click();
        await dialog(page).getByLabel("Name").fill("web");
        await dialog(page).getByRole("button", { name: "Create" }).click();
        await dialog(page).getByText("The network was not created").waitFor();
        assert.match(await dialog(page).innerText(), /web.*(exists|taken|known|defined)/is);
        await page.screenshot({ path: `${PICTURES}/refused.png` });
        await page.keyboard.press("Escape");
        await dialog(page).waitFor({ state: "detached" });
    });

    does("looks at a form's network as XML, and makes it after a review", async page => {
        await page.getByRole("button", { name: "New network" }).click();
        await dialog(page).getByLabel("Name").fill("lab");
        await dialog(page).getByLabel("Mode").selectOption("none");
        await dialog(page).getByRole("button", { name: "Review as XML" }).click();
        const xml = page.getByLabel("XML, as libvirt has it");
        await xml.waitFor();
        assert.match(await xml.inputValue(), /<name>lab<\/name>/);
        const save = page.getByRole("button", { name: "Save" });
        assert.ok(await save.isDisabled(), "it can be saved before the review");
        await xml.fill((await xml.inputValue()).replace("<name>lab</name>", "<name>lab</name><forward mode='nonsense'/>"));
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.getByText("The document can't be used").waitFor();
        assert.match(await page.locator(".vnetd-problem").innerText(), /nonsense/);
        await xml.fill((await xml.inputValue()).replace("<forward mode='nonsense'/>", ""));
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.getByText("A new network.").waitFor();
        await page.getByRole("button", { name: /firewall rule/ }).click();
        await page.getByLabel("Firewall rules", { exact: true }).waitFor();
        await clean(page, "the review");
        await picture(page, "review");
        await save.click();
        await toast(page, "Network lab is saved").waitFor();
        await page.getByRole("heading", { name: /^lab/ }).waitFor();
        assert.equal(network("lab").state, "inactive");
        await closeToasts(page);
    });

    does("makes a network from XML", async page => {
        await tab(page, "Networks");
        await page.getByRole("button", { name: "New from XML" }).click();
        const xml = page.getByLabel("XML, as libvirt has it");
        await xml.fill("<network><name>third</name><ip address='192.168.77.1' netmask='255.255.255.0'/></network>");
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.getByText("A new network.").waitFor();
        await page.getByRole("button", { name: "Cancel" }).click();
        assert.equal(network("third"), undefined);
        await page.getByRole("button", { name: "New from XML" }).click();
        await xml.fill("<network><name>third</name><ip address='192.168.77.1' netmask='255.255.255.0'/></network>");
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.getByRole("button", { name: "Save" }).click();
        await toast(page, "Network third is saved").waitFor();
        await closeToasts(page);
    });

    does("starts, stops, marks and searches networks", async page => {
        await tab(page, "Networks");
        await page.getByRole("button", { name: "Start network lab" }).click();
        await toast(page, "Network lab is started").waitFor();
        await row(page, "Networks", "lab").getByText("Active").waitFor();
        await page.getByRole("switch", { name: "Start network lab with the host" }).click({ force: true });
        await until("lab is marked", () => network("lab").autostart);
        await page.getByRole("button", { name: "Stop network lab" }).click();
        await toast(page, "Network lab is stopped").waitFor();
        await row(page, "Networks", "lab").getByText("Inactive").waitFor();
        await page.getByRole("textbox", { name: "Search networks" }).fill("web");
        await row(page, "Networks", "lab").waitFor({ state: "detached" });
        await page.getByRole("textbox", { name: "Search networks" }).fill("no such");
        await page.getByText("No network matches the search").waitFor();
        await page.getByRole("button", { name: "Clear the search" }).click();
        await row(page, "Networks", "lab").waitFor();
        await closeToasts(page);
        await picture(page, "networks");
        await clean(page, "the networks");
    });

    does("follows what others do, without a reload", async page => {
        vnetctl("start", "lab");
        await row(page, "Networks", "lab").getByText("Active").waitFor();
        vnetctl("stop", "lab");
        await row(page, "Networks", "lab").getByText("Inactive").waitFor();
    });

    does("removes a definition", async page => {
        await page.getByRole("button", { name: "More actions of network third" }).click();
        await page.getByRole("menuitem", { name: "Remove definition" }).click();
        await dialog(page).getByRole("button", { name: "Cancel" }).click();
        assert.ok(network("third"));
        await page.getByRole("button", { name: "More actions of network third" }).click();
        await page.getByRole("menuitem", { name: "Remove definition" }).click();
        await clean(page, "the question");
        await dialog(page).getByRole("button", { name: "Remove" }).click();
        await toast(page, "The definition of network third is removed").waitFor();
        await row(page, "Networks", "third").waitFor({ state: "detached" });
        assert.equal(network("third"), undefined);
        await closeToasts(page);
    });

    does("shows leases, searches them, and reserves one by one click", async page => {
        const bridge = network("web").bridge;
        const one = guest(bridge, "one", "52:54:00:50:00:01");
        guest(bridge, "two", "52:54:00:50:00:02");
        await tab(page, "Leases");
        await row(page, "Leases", one).getByText("52:54:00:50:00:01").waitFor();
        await row(page, "Leases", "52:54:00:50:00:02").waitFor();
        await page.getByRole("textbox", { name: "Search leases" }).fill("one");
        await row(page, "Leases", "52:54:00:50:00:02").waitFor({ state: "detached" });
        await page.getByRole("button", { name: `Reserve ${one} for one` }).click();
        await toast(page, `${one} is reserved for one`).waitFor();
        await row(page, "Leases", one).getByText("Reserved").waitFor();
        assert.match(vnetctl("cat", "web", "--inactive"), new RegExp(`<host mac='52:54:00:50:00:01' name='one' ip='${one}'`));
        await closeToasts(page);
        await page.getByRole("button", { name: "Clear the search" }).click();
        await picture(page, "leases");
        await clean(page, "the leases");
        await page.getByRole("button", { name: `Remove reservation of ${one}` }).click();
        await toast(page, `${one} is reserved no more`).waitFor();
        await page.getByRole("button", { name: `Reserve ${one} for one` }).waitFor();
        assert.doesNotMatch(vnetctl("cat", "web", "--inactive"), /<host/);
        await closeToasts(page);

        run("ip", "netns", "exec", "two", "dhclient", "-6", "-1", "-sf", "/bin/true", "-lf", "/run/two.leases", "-pf", "/run/two.pid", "eth0");
        const six = JSON.parse(vnetctl("leases", "web", "--json")).map(l => l.address).find(a => a.startsWith("fd"));
        await page.getByRole("button", { name: `Reserve ${six} for` }).click();
        await toast(page, `${six} is reserved for`).waitFor();
        assert.match(vnetctl("cat", "web", "--inactive"), new RegExp(`<host id='[0-9a-f:]+'[^>]* ip='${six}'`));
        await page.getByRole("button", { name: `Remove reservation of ${six}` }).click();
        await toast(page, `${six} is reserved no more`).waitFor();
        assert.doesNotMatch(vnetctl("cat", "web", "--inactive"), /<host/);
        await closeToasts(page);
        await row(page, "Leases", one).getByRole("button", { name: "web", exact: true }).click();
        await page.getByRole("heading", { name: /^web/ }).waitFor();
    });

    does("shows ports, and releases one", async page => {
        await plugIn("web", "p1");
        vnetctl("port", "create", "web", "--name", "p2", "--lifetime", "persistent", "--id", "p2", "--address", "192.168.50.99");
        await tab(page, "Ports");
        await row(page, "Ports and guests", "p1").getByText("Until the guest closes it").waitFor();
        await row(page, "Ports and guests", "p1").getByText(/192\.168\.50\.\d+/).waitFor();
        await row(page, "Ports and guests", "p2").getByText("Until it is released").waitFor();
        await row(page, "Ports and guests", "p2").getByText("192.168.50.99, reserved").waitFor();
        await row(page, "Ports and guests", "p2").getByText(/bit\/s \/ .*bit\/s/).waitFor();
        await page.getByRole("textbox", { name: "Search ports" }).fill("p2");
        await row(page, "Ports and guests", "p1").waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Clear the search" }).click();
        await picture(page, "ports");
        await clean(page, "the ports");
        await page.getByRole("button", { name: "Release the port of p1" }).click();
        await dialog(page).getByRole("button", { name: "Cancel" }).click();
        await row(page, "Ports and guests", "p1").waitFor();
        await page.getByRole("button", { name: "Release the port of p1" }).click();
        await dialog(page).getByRole("button", { name: "Release" }).click();
        await toast(page, "The port of p1 is released").waitFor();
        await row(page, "Ports and guests", "p1").waitFor({ state: "detached" });
        assert.equal(JSON.parse(vnetctl("port", "list", "--json")).length, 1);
        await closeToasts(page);
    });

    does("adds and deletes forwards", async page => {
        await tab(page, "Forwards");
        await page.getByRole("button", { name: "Add forward" }).click();
        await dialog(page).getByLabel("Network").selectOption("web");
        await dialog(page).getByLabel("Ports of the host").fill("8080");
        await dialog(page).getByRole("textbox", { name: "Guest", exact: true }).fill("p2");
        await dialog(page).getByLabel("Port of the guest").fill("80x");
        await dialog(page).getByText('"80x" is no port').waitFor();
        await dialog(page).getByLabel("Port of the guest").fill("80");
        await clean(page, "the form of a forward");
        await dialog(page).getByRole("button", { name: "Add" }).click();
        await toast(page, "tcp/8080 leads to p2 now").waitFor();
        await row(page, "Forwards", "8080").getByText("192.168.50.99").waitFor();
        await closeToasts(page);

        await page.getByRole("button", { name: "Add forward" }).click();
        await dialog(page).getByLabel("Network").selectOption("web");
        await dialog(page).getByLabel("Ports of the host").fill("8080");
        await dialog(page).getByRole("textbox", { name: "Guest", exact: true }).fill("192.168.50.7");
        await dialog(page).getByRole("button", { name: "Add" }).click();
        await dialog(page).getByText("The forward was not added").waitFor();
        assert.match(await dialog(page).innerText(), /8080/);
        await dialog(page).getByLabel("Ports of the host").fill("9000-9009");
        await dialog(page).getByLabel("Protocol").selectOption("udp");
        await dialog(page).getByRole("button", { name: "Add" }).click();
        await row(page, "Forwards", "9000-9009").getByText("192.168.50.7").first().waitFor();
        await page.getByRole("textbox", { name: "Search forwards" }).fill("9000");
        await row(page, "Forwards", "8080").waitFor({ state: "detached" });
        await page.getByRole("button", { name: "Clear the search" }).click();
        await closeToasts(page);
        await picture(page, "forwards");
        await clean(page, "the forwards");
        await page.getByRole("button", { name: "Delete the forward of tcp/8080" }).click();
        await dialog(page).getByRole("button", { name: "Delete" }).click();
        await toast(page, "The forward of tcp/8080 is deleted").waitFor();
        await row(page, "Forwards", "8080").waitFor({ state: "detached" });
        assert.equal(JSON.parse(vnetctl("forward", "list", "--json")).length, 1);
        await closeToasts(page);
    });

    does("shows a network with all of it, and what its next start changes", async page => {
        await page.goto(ADMIN + place + "#/networks/web");
        await page.getByRole("heading", { name: /^web/ }).waitFor();
        await page.getByText("web.example").first().waitFor();
        await page.getByText("192.168.50.1/24").waitFor();
        await row(page, "Ports of network web", "p2").waitFor();
        await row(page, "Leases of network web", "52:54:00:50:00:01").waitFor();
        await row(page, "Forwards of network web", "9000-9009").waitFor();
        vnetctl("peer", "add", "web", "lab", "tcp/5432", "--direction", "in");
        vnetctl("rule", "add", "web", "egress", "reject", "tcp/25");
        await row(page, "Peers of network web", "tcp/5432").getByText("Waiting").waitFor();
        await page.getByRole("list", { name: "Rules of network web" }).getByText("egress reject tcp/25").waitFor();
        await picture(page, "network");
        await clean(page, "a network");

        await page.getByRole("button", { name: "More actions of network web" }).click();
        await page.getByRole("menuitem", { name: "Edit XML" }).click();
        const xml = page.getByLabel("XML, as libvirt has it");
        await until("the document is there", async () => (await xml.inputValue()).includes("web.example"));
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.getByText("The definition stays as it is.").waitFor();
        await xml.fill((await xml.inputValue()).replace("192.168.50.254", "192.168.50.200").replace(/(<bridge [^>]*)\/>/, "$1/><mtu size='1400'/>"));
        assert.ok(await page.getByRole("button", { name: "Save" }).isDisabled(), "what was not reviewed can be saved");
        await page.getByLabel("What the active network becomes at once").selectOption("none");
        await page.getByRole("button", { name: "Review changes" }).click();
        await page.locator(".vnetd-diff-added").getByText("192.168.50.200").waitFor();
        await page.locator(".vnetd-diff-removed").getByText("192.168.50.254").waitFor();
        await picture(page, "diff");
        await clean(page, "the diff");
        await page.getByRole("button", { name: "Save" }).click();
        await toast(page, "Network web is saved").waitFor();
        await page.getByText("Its next start changes").waitFor();
        await closeToasts(page);
        await page.getByRole("button", { name: "Apply now" }).click();
        await dialog(page).getByRole("button", { name: "Apply" }).click();
        await toast(page, "The changes of network web are in force").waitFor();
        await page.getByText("Its next start changes").waitFor({ state: "detached" });
        assert.match(vnetctl("cat", "web"), /192\.168\.50\.200/);
        await closeToasts(page);
        await page.getByRole("button", { name: "More actions of network web" }).click();
        await page.getByRole("menuitem", { name: "Edit XML" }).click();
        await page.getByRole("button", { name: "web", exact: true }).click();
        await page.getByRole("switch", { name: "Start network web with the host" }).click({ force: true });
        await until("web is marked", () => network("web").autostart);
        await page.getByRole("button", { name: "Networks", exact: true }).click();
        await row(page, "Networks", "web").waitFor();
    });

    does("says that a network is not there", async page => {
        await page.goto(ADMIN + place + "#/networks/gone");
        await page.getByText("There is no network gone").waitFor();
        await clean(page, "a network that is not there");
        await page.getByRole("button", { name: "All networks" }).click();
        await row(page, "Networks", "web").waitFor();
    });

    does("asks before a stop that cuts guests off", async page => {
        await page.getByRole("button", { name: "Stop network web" }).click();
        await dialog(page).getByText("1 port is taken off").waitFor();
        await dialog(page).getByRole("button", { name: "Cancel" }).click();
        assert.equal(network("web").state, "active");
        await page.getByRole("button", { name: "Stop network web" }).click();
        await dialog(page).getByRole("button", { name: "Stop" }).click();
        await toast(page, "Network web is stopped").waitFor();
        assert.equal(network("web").state, "inactive");
        await page.getByRole("button", { name: "Start network web" }).click();
        await row(page, "Networks", "web").getByText("Active").waitFor();
        vnetctl("port", "create", "web", "--name", "p2", "--lifetime", "persistent", "--id", "p2", "--address", "192.168.50.99");
        await closeToasts(page);
    });

    does("tells of conditions and what helps", async page => {
        run("nft", "add", "table", "inet", "strict");
        run("nft", "add", "chain", "inet", "strict", "forward", "{ type filter hook forward priority 10; policy drop; }");
        await page.getByRole("link", { name: /^Conditions \(\d+\)/ }).click();
        const condition = page.locator(".vnetd-condition").filter({ hasText: "drop-policy" });
        await condition.first().waitFor();
        await condition.first().getByRole("button", { name: "Copy" }).click();
        await picture(page, "conditions");
        await clean(page, "the conditions");
        await condition.first().getByRole("button", { name: "web", exact: true }).click();
        await page.getByRole("heading", { name: "Conditions" }).waitFor();
        run("nft", "delete", "table", "inet", "strict");
        await tab(page, "Conditions");
        await condition.first().waitFor({ state: "detached" });
    });

    does("draws the picture and the curves", async page => {
        await plugIn("web", "mail");
        await plugIn("web", "shop");
        const traffic = spawn("ip", ["netns", "exec", "mail", "ping", "-q", "-i", "0.02", "-w", "12", "-s", "1200", "203.0.113.1"], { stdio: "ignore" });
        await tab(page, "Overview");
        for (const name of ["Uplink eno1", "Bridge virbr0", "Network web", "Network lab", "Guest mail 192.168.50.", "Guest p2 no address"]) await page.getByLabel(name).first().waitFor();
        await page.getByRole("img", { name: /^Leases: web [1-9]/ }).waitFor();
        await page.getByRole("img", { name: /^Throughput: web, to guests [1-9].*[kM]bit\/s, web, from guests [1-9].*[kM]bit\/s$/ }).waitFor();
        const curve = page.getByRole("img", { name: /^Throughput: / }).locator("path.vnetd-curve").first();
        await until("the curve goes on", async () => ((await curve.getAttribute("d")) ?? "").split("L").length > 3);
        await picture(page, "overview");
        await clean(page, "the overview");
        traffic.kill();
        await page.getByRole("link", { name: "Network web" }).focus();
        await page.keyboard.press("Enter");
        await page.getByRole("heading", { name: /^web/ }).waitFor();
        for (const count of ["Networks: 1 active of 2", "Ports and guests: ", "Forwards: 1 active of 1", "Conditions: "]) {
            await tab(page, "Overview");
            await page.getByRole("button", { name: count }).click();
            await page.getByRole("heading", { name: count.split(":")[0], level: 2 }).waitFor();
        }
    });

    does("shows the log as it is written", async page => {
        await tab(page, "Log");
        await page.getByText("The log of vnetd is empty").waitFor();
        const log = (priority, message) => execFileSync("logger", ["--journald"], { input: `MESSAGE=${message}\nPRIORITY=${priority}\nOBJECT_SYSTEMD_UNIT=vnetd.service\n` });
        log(6, "network web is started");
        log(3, "network lab can't be started");
        const lines = page.getByRole("log");
        await lines.getByText("network web is started").waitFor();
        await lines.getByText("network lab can't be started").waitFor();
        await picture(page, "log");
        await clean(page, "the log");
        await page.getByLabel("Which lines are shown").selectOption("4");
        await lines.getByText("network web is started").waitFor({ state: "detached" });
        await page.getByRole("textbox", { name: "Search the log" }).fill("nothing of that");
        await page.getByText("No line matches the search").waitFor();
        await page.getByRole("button", { name: "Clear the search" }).click();
        await lines.getByText("network lab can't be started").waitFor();
    });

    does("is used by the keyboard alone", async page => {
        await page.goto(ADMIN + place + "#/networks");
        await page.getByRole("button", { name: "New network" }).focus();
        await page.keyboard.press("Enter");
        await dialog(page).waitFor();
        assert.ok(await dialog(page).evaluate(d => d.contains(document.activeElement)), "the focus is not in the dialog");
        await dialog(page).getByLabel("Name").focus();
        await page.keyboard.type("keys");
        await page.keyboard.press("Enter");
        await toast(page, "Network keys is defined").waitFor();
        await row(page, "Networks", "keys").getByText("Active").waitFor();
        await closeToasts(page);
        vnetctl("stop", "keys");
        vnetctl("undefine", "keys");
    });

    does("is dark where Cockpit is", async page => {
        await page.evaluate(() => {
            localStorage.setItem("shell:style", "dark");
            window.dispatchEvent(new CustomEvent("cockpit-style", { detail: { style: "dark" } }));
        });
        const background = await page.evaluate(() => getComputedStyle(document.querySelector(".pf-v6-c-card")).backgroundColor);
        assert.ok(background.match(/\d+/g).slice(0, 3).every(c => Number(c) < 80), `a card is ${background} in the dark`);
        for (const name of ["Overview", "Networks", "Leases", "Forwards", "Log"]) {
            await tab(page, name);
            await page.getByRole("heading", { level: 2 }).first().waitFor();
            await page.waitForTimeout(300);
            await clean(page, name + " in the dark");
            await picture(page, "dark-" + name.toLowerCase());
        }
        await page.evaluate(() => { localStorage.setItem("shell:style", "light"); window.dispatchEvent(new CustomEvent("cockpit-style", { detail: { style: "light" } })); });
        assert.ok(!await page.evaluate(() => document.documentElement.classList.contains("pf-v6-theme-dark")));
    });

    does("says that vnetd does not run, starts it, and goes on by itself", async page => {
        await tab(page, "Networks");
        await control("/stop");
        await page.getByRole("heading", { name: "vnetd does not run" }).waitFor();
        await picture(page, "stopped");
        await clean(page, "a page without vnetd");
        await page.getByRole("button", { name: "Show the log" }).click();
        await page.getByRole("heading", { name: "Log", exact: true }).waitFor();
        await tab(page, "Networks");
        await page.getByRole("button", { name: "Start vnetd" }).click();
        await row(page, "Networks", "web").getByText("Active").waitFor();
        await control("/stop");
        await page.getByRole("heading", { name: "vnetd does not run" }).waitFor();
        await control("/start");
        await row(page, "Networks", "web").getByText("Active").waitFor();
        vnetctl("start", "lab");
        await row(page, "Networks", "lab").getByText("Active").waitFor();
    });
});

describe("a visitor without rights", () => {
    let page;
    before(async () => { page = await open(VISITOR, "#/networks"); });

    step("sees everything and is told what is missing", () => page, async page => {
        await row(page, "Networks", "web").getByText("Active").waitFor();
        await page.getByRole("button", { name: "Stop network lab" }).click();
        await toast(page, "Network lab was not stopped").waitFor();
        await toast(page, "administrative access").waitFor();
        await page.screenshot({ path: `${PICTURES}/denied.png` });
        await clean(page, "a refusal");
        assert.equal(network("lab").state, "active");
        await page.getByRole("button", { name: "Close" }).click();
        await toast(page, "Network lab was not stopped").waitFor({ state: "detached" });
    });
});

describe("a page that loses its connection", () => {
    let page, socket;
    let refuse = false;
    before(async () => {
        page = await blank();
        await page.routeWebSocket(/\/socket/, ws => {
            if (refuse) { ws.close(); return; }
            socket = ws;
            ws.connectToServer();
        });
        await page.goto(ADMIN + place + "#/networks");
    });

    step("says so, and comes back", () => page, async page => {
        await row(page, "Networks", "web").getByText("Active").waitFor();
        await socket.close();
        await page.getByText("The connection to vnetd is lost").waitFor();
        await row(page, "Networks", "web").waitFor(); // what was there last can still be read
        await clean(page, "a lost connection");
        refuse = true;
        await page.getByRole("button", { name: "Try again" }).click();
        await page.getByRole("heading", { name: "vnetd can't be reached" }).waitFor();
        await clean(page, "a page without connection");
        await picture(page, "unreachable");
        refuse = false;
        await page.getByRole("button", { name: "Try again" }).click();
        await row(page, "Networks", "web").getByText("Active").waitFor();
    });
});

describe("in Chinese", () => {
    let page;
    before(async () => {
        page = await blank({ locale: "zh-CN" });
        await page.context().addCookies([{ name: "CockpitLang", value: "zh-cn", url: ADMIN }]);
        await page.goto(ADMIN + place);
    });

    step("all is translated", () => page, async page => {
        const parts = page.getByRole("navigation").getByRole("link");
        await page.getByRole("heading", { name: "网络", exact: true }).first().waitFor();
        for (let i = 0; i < 7; i++) {
            await parts.nth(i).click();
            await page.getByRole("heading", { level: 2 }).first().waitFor();
            await page.waitForTimeout(300);
            const text = await page.locator("nav, h2, th, button, label, dt, td[data-label='State'], .pf-v6-screen-reader").allInnerTexts(); // what vnetd says of conditions is in English
            const english = text.flatMap(t => t.split("\n")).filter(t => /[a-z]{4}/.test(t) && !/web|lab|vnetd/.test(t));
            assert.deepEqual(english, [], "words that are not translated");
            assert.equal(await page.evaluate(() => document.documentElement.lang), "zh-CN");
            await page.screenshot({ path: `${PICTURES}/chinese-${i}.png` });
        }
    });
});

describe("in the frame of Cockpit", () => {
    let page;
    before(async () => {
        page = await blank();
        await page.goto(ADMIN + "/system");
    });

    step("the menu leads to the page", () => page, async page => {
        await page.getByRole("link", { name: "Virtual networks" }).click();
        const frame = page.frameLocator("iframe[name='cockpit1:localhost/vnetd']");
        await frame.getByRole("heading", { name: "Picture" }).waitFor();
        await frame.getByRole("link", { name: "Networks" }).click();
        await frame.getByRole("grid", { name: "Networks" }).waitFor();
        assert.match(page.url(), /vnetd#\/networks$/);
        await frame.getByRole("link", { name: "Overview" }).click();
        await frame.getByLabel("Guest mail").waitFor();
        await page.waitForTimeout(6000); // for some points of the curves
        await page.screenshot({ path: `${PICTURES}/cockpit.png` });
    });
});

it("the browser had nothing to complain of", () => {
    assert.deepEqual(complaints, []);
});
