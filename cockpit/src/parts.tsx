// What all parts of the page are made of: alerts, dialogs, labels and empty states.
import { Fragment, type ReactNode, useCallback, useEffect, useState, useSyncExternalStore } from "react";
import {
    Alert, AlertActionCloseButton, AlertGroup, Button, Content, EmptyState, EmptyStateBody, Form, Label, Modal, ModalBody,
    ModalFooter, ModalHeader, SearchInput,
} from "@patternfly/react-core";
import { _, type Problem, problemOf, stateName } from "./text";

// Shelf holds a value that components look at.
class Shelf<T> {
    private listeners = new Set<() => void>();
    constructor(private value: T) {}
    get = () => this.value;
    set(value: T) {
        this.value = value;
        for (const listener of this.listeners) listener();
    }

    subscribe = (listener: () => void) => {
        this.listeners.add(listener);
        return () => { this.listeners.delete(listener); };
    };

    use = () => useSyncExternalStore(this.subscribe, this.get);
}

interface Toast {
    id: number;
    variant: "danger" | "success" | "info";
    title: string;
    body: ReactNode;
}

const toasts = new Shelf<Toast[]>([]);
let count = 0;

function toast(variant: Toast["variant"], title: string, body: ReactNode) {
    // One that says the same again takes the place of the first.
    const others = toasts.get().filter(t => t.title !== title || variant !== t.variant);
    toasts.set([...others, { id: ++count, variant, title, body }]);
}

export const succeeded = (title: string, body?: ReactNode) => toast("success", title, body);

export const failed = (title: string, error: unknown) => {
    const problem = problemOf(title, error);
    toast("danger", problem.title, <Sentence problem={problem} />);
};

const closeToast = (id: number) => toasts.set(toasts.get().filter(t => t.id !== id));

type AlertProps = React.ComponentProps<typeof Alert>;

function variantLabel(variant: AlertProps["variant"]): string {
    switch (variant) {
    case "danger": return _("Error:");
    case "warning": return _("Warning:");
    case "success": return _("Done:");
    default: return _("Note:");
    }
}

/** An alert of PatternFly's in the reader's language. It is no heading of the page unless it says so. */
export const Notice = (props: AlertProps) => <Alert component="p" isInline={!props.actionClose} variantLabel={variantLabel(props.variant)} {...props} />;

/** Alerts that come and stay until they are closed; good news goes by itself. */
export function Toasts() {
    const all = toasts.use();
    return (
        <AlertGroup isToast isLiveRegion aria-label={_("Messages")}>
            {all.map(t => (
                <Notice key={t.id} variant={t.variant} title={t.title} timeout={t.variant === "success" ? 8000 : false}
                    onTimeout={() => closeToast(t.id)}
                    actionClose={<AlertActionCloseButton aria-label={_("Close")} title={t.title} onClose={() => closeToast(t.id)} />}>
                    {t.body}
                </Notice>
            ))}
        </AlertGroup>
    );
}

/** What vnetd said of a call that failed. Each fault of a document is on a line of its own. */
export function Sentence({ problem }: { problem: Problem }) {
    return (
        <>
            {problem.text.split("\n").map((line, i) => <Fragment key={i}>{i > 0 && <br />}{line}</Fragment>)}
            {problem.hint && <Content component="p" className="vnetd-hint">{problem.hint}</Content>}
        </>
    );
}

export function ProblemAlert({ problem }: { problem: Problem | null }) {
    if (!problem) return null;
    return <Notice variant="danger" title={problem.title} className="vnetd-problem"><Sentence problem={problem} /></Notice>;
}

const dialog = new Shelf<ReactNode>(null);
export const openDialog = (content: ReactNode) => dialog.set(content);
export const closeDialog = () => dialog.set(null);
export const DialogHost = () => <>{dialog.use()}</>;

/** Does what takes a while, once at a time; what goes wrong is for the caller to show. */
export function useTask(): [boolean, (work: () => Promise<unknown>) => Promise<boolean>, Problem | null, (title: string) => void] {
    const [busy, setBusy] = useState(false);
    const [problem, setProblem] = useState<Problem | null>(null);
    const [title, setTitle] = useState("");
    const run = useCallback(async (work: () => Promise<unknown>) => {
        setBusy(true);
        setProblem(null);
        try {
            await work();
            return true;
        } catch (error) {
            setProblem(problemOf(title || _("That failed"), error));
            return false;
        } finally {
            setBusy(false);
        }
    }, [title]);
    return [busy, run, problem, setTitle];
}

interface DialogProps {
    title: string;
    action: string; // what the button that does it says
    failure: string; // the title of what went wrong
    danger?: boolean;
    wide?: boolean;
    disabled?: boolean;
    work: () => Promise<unknown>;
    more?: ReactNode; // further buttons
    children: ReactNode;
}

/** A question or a form. It stays open, with what went wrong, until its work is done. */
export function Dialog({ title, action, failure, danger, wide, disabled, work, more, children }: DialogProps) {
    const [busy, run, problem, setTitle] = useTask();
    useEffect(() => setTitle(failure), [failure, setTitle]);
    const go = async () => {
        if (busy || disabled) return;
        if (await run(work)) closeDialog();
    };
    return (
        <Modal isOpen variant={wide ? "medium" : "small"} onEscapePress={closeDialog} aria-labelledby="dialog-title" aria-describedby="dialog-body">
            <ModalHeader title={title} labelId="dialog-title" />
            <ModalBody id="dialog-body">
                <ProblemAlert problem={problem} />
                <Form onSubmit={event => { event.preventDefault(); void go(); }}>
                    {children}
                    <input type="submit" hidden />
                </Form>
            </ModalBody>
            <ModalFooter>
                <Button variant={danger ? "danger" : "primary"} isLoading={busy} isDisabled={busy || disabled} onClick={go}>{action}</Button>
                {more}
                <Button variant="link" onClick={closeDialog}>{_("Cancel")}</Button>
            </ModalFooter>
        </Modal>
    );
}

type Colour = "green" | "orange" | "red" | "grey" | "blue";

const colours: Record<string, Colour> = {
    active: "green", degraded: "orange", failed: "red", starting: "blue", stopping: "blue", waiting: "orange",
};

export const State = ({ state, word }: { state: string; word?: string }) => <Label isCompact color={colours[state] ?? "grey"}>{word ?? stateName(state)}</Label>;

/** Why nothing is to be seen, and what to do. */
export function Nothing({ title, children }: { title: string; children?: ReactNode }) {
    return (
        <EmptyState titleText={title} headingLevel="h2" variant="sm">
            {children && <EmptyStateBody>{children}</EmptyStateBody>}
        </EmptyState>
    );
}

export function Search({ label, value, onChange }: { label: string; value: string; onChange: (value: string) => void }) {
    return (
        <SearchInput aria-label={label} placeholder={label} value={value} resetButtonLabel={_("Clear the search")}
            onChange={(_event, text) => onChange(text)} onClear={() => onChange("")} />
    );
}

/** The place in the page that the address bar says, as a list of words. */
export function useLocation(): string[] {
    const [path, setPath] = useState(cockpit.location.path);
    useEffect(() => {
        const follow = () => setPath(cockpit.location.path);
        cockpit.addEventListener("locationchanged", follow);
        return () => cockpit.removeEventListener("locationchanged", follow);
    }, []);
    return path;
}

export const go = (...path: string[]) => cockpit.location.go(path);

export function NetworkLink({ name }: { name: string }) {
    return <Button variant="link" isInline onClick={() => go("networks", name)}>{name}</Button>;
}
