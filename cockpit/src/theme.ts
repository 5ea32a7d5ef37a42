// Dark and light as the rest of Cockpit: its shell keeps the choice where every page of it
// can read it, and tells of changes.

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function apply(style: string) {
    const on = style === "dark" || (style !== "light" && dark.matches);
    document.documentElement.classList.toggle("pf-v6-theme-dark", on);
}

const chosen = () => localStorage.getItem("shell:style") || "auto";

export function followTheme() {
    apply(chosen());
    dark.addEventListener("change", () => apply(chosen()));
    window.addEventListener("storage", event => {
        if (event.key === "shell:style") apply(chosen());
    });
    window.addEventListener("cockpit-style", event => apply((event as CustomEvent<{ style?: string }>).detail?.style || chosen()));
}
