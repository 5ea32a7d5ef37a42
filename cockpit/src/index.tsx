import "@patternfly/patternfly/patternfly-base.css";
import "./page.css";
import { createRoot } from "react-dom/client";
import { App } from "./app";
import { daemon } from "./bus";
import { _ } from "./text";
import { followTheme } from "./theme";

followTheme();
document.documentElement.lang = cockpit.language.replace("_", "-");
document.title = _("Virtual networks");
daemon.start();
createRoot(document.getElementById("page")!).render(<App />);
