// The search page: sign-in, navigation and the state of the address.

import { AlertsView } from "./alerts.js";
import { call, keyGiven, onKeyNeeded } from "./api.js";
import { EMPTY, parse, write } from "./address.js";
import { CasesView, ownVerdict, unconfirmedOf, useCase, verdictsOf } from "./cases.js";
import { focusTile } from "./grid.js";
import { html, render, useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { Dialog, ProblemNote, refocus } from "./parts.js";
import { authorOf, forgetOperator } from "./purpose.js";
import { RecordPanel } from "./record.js";
import { RecordsView } from "./records.js";
import { SearchView } from "./search.js";

const KEYS = [
  ["1, 2, 3", "Same, different, unsure: the verdict on the result or alert"],
  ["u", "Undo the last verdict"],
  ["r", "Search again with the verdicts"],
  ["arrows, Home, End", "Move between pictures, or between the dots of the timeline"],
  ["Enter", "Open the record"],
  ["s", "Find similar"],
  ["Escape", "Close the record or the dialog"],
  ["/", "Go to the query"],
  ["g", "Go to the results"],
  ["?", "Show this list"],
];

// Added pictures by the name that an entry of the history has, so back and forward find them. In memory only: after the page is
// loaded again, an older entry must not find pictures that were added later, so the name begins with the time of the load.
const uploadSets = new Map();
let uploadCount = 0;

/** Write a state into the address. Browsers refuse too many changes in a short time; the last one is written later. */
function record(method, state) {
  try {
    history[method]({ uploadSet: state.uploadSet }, "", write(state));
  } catch {
    clearTimeout(record.timer);
    record.timer = setTimeout(() => record("replaceState", state), 1000);
  }
}

const callers = new BroadcastChannel(`not3d ${new URL(".", location.href).pathname}`);

function useAddress() {
  const read = () => ({ ...parse(location.hash), uploadSet: history.state?.uploadSet ?? "" });
  const [state, setState] = useState(read);
  useEffect(() => {
    const change = () => setState(read());
    addEventListener("popstate", change);
    addEventListener("hashchange", change);
    return () => {
      removeEventListener("popstate", change);
      removeEventListener("hashchange", change);
    };
  }, []);
  const latest = useRef(state);
  latest.current = state;
  const go = useCallback((fields, { replace = false, uploads } = {}) => {
    const next = { ...latest.current, ...fields };
    if (uploads) {
      uploadCount += 1;
      next.uploadSet = uploads.length ? `${performance.timeOrigin} ${uploadCount}` : "";
      if (uploads.length) uploadSets.set(next.uploadSet, uploads);
      next.upload = uploads.length > 0;
    }
    latest.current = next;
    record(replace ? "replaceState" : "pushState", next);
    setState(next);
  }, []);
  return [state, go];
}

function App() {
  const [state, go] = useAddress();
  const [session, setSession] = useState({ status: "loading" });
  const [signIn, setSignIn] = useState(null);
  const [cameras, setCameras] = useState(null);
  const [help, setHelp] = useState(false);
  const [leaving, setLeaving] = useState(null);
  const [changes, setChanges] = useState(0);
  const [erased, setErased] = useState(() => new Set()); // a search that was made before still has them
  const undo = useRef([]);
  const uploads = uploadSets.get(state.uploadSet) || NOTHING;

  const load = useCallback(async () => {
    try {
      // A key may be allowed to search and not to keep cases.
      const [caller, info, hasCases, newest] = await Promise.all([
        call("session"),
        call("info"),
        call("cases", { query: { limit: 1 } }).then(() => true, () => false),
        call("alerts", { query: { limit: 1 } }).then((found) => found.cursor, () => null),
      ]);
      setSession({ status: "ready", caller, info, hasCases, newest });
    } catch (problem) {
      setSession({ status: "failed", problem });
      if (problem.status === 503) setTimeout(load, 2000);
    }
  }, []);
  useEffect(() => {
    const stop = onKeyNeeded((problem) => setSignIn(problem));
    load();
    return stop;
  }, []);

  useEffect(() => {
    if (session.info) call("cameras").then(setCameras, () => setCameras(null));
  }, [session.info, changes]);

  const unseen = useUnseen(session.newest, state.view === "alerts");
  const author = useCallback(() => authorOf(session.caller), [session.caller]);
  const opened = useCase(state.case, author);
  const verdicts = useMemo(() => {
    if (opened.details) return verdictsOf(opened.details);
    const map = new Map();
    for (const verdict of ["same", "different", "unsure"]) state[verdict].forEach((id) => map.set(id, verdict));
    return map;
  }, [state.same, state.different, state.unsure, opened.details]);
  const setVerdict = (id, verdict) => {
    if (opened.details) {
      opened.judge(id, verdict);
      return;
    }
    const fields = {};
    for (const name of ["same", "different", "unsure"]) {
      const others = state[name].filter((each) => each !== id);
      fields[name] = name === verdict ? [...others, id] : others;
    }
    go(fields, { replace: true });
  };
  // The same verdict a second time takes it back. In a case, that of another operator is confirmed by the same verdict.
  const judge = (id, verdict) => {
    const before = opened.details ? ownVerdict(opened.details, id, author()) : verdicts.get(id) ?? null;
    undo.current.push({ id, before });
    setVerdict(id, before === verdict ? null : verdict);
  };
  const takeBack = () => {
    const last = undo.current.pop();
    if (!last) return;
    setVerdict(last.id, last.before);
    if (document.activeElement === document.body || document.activeElement.closest(".grid")) focusTile(last.id); // to judge it again
  };
  // Verdicts of another search are not undone in this one.
  useEffect(() => { undo.current = []; }, [state.case, state.uploadSet, state.like.join("\n"), state.unlike.join("\n")]);
  const unconfirmed = useMemo(() => unconfirmedOf(opened.details), [opened.details]);
  const opener = useRef(null);
  const openRecord = useCallback((id) => {
    if (!document.activeElement?.closest(".record")) opener.current = document.activeElement;
    go({ record: id });
  }, []);
  const closeRecord = () => {
    const id = state.record;
    go({ record: "" });
    requestAnimationFrame(() => {
      if (focusTile(id)) return;
      (opener.current?.isConnected ? opener.current : document.getElementById("main"))?.focus();
    });
  };

  const onErased = useRef(null); // what holds when the dialog ends, not when it was opened
  onErased.current = (id) => {
    setChanges((now) => now + 1);
    setErased((now) => new Set(now).add(id));
    if (verdicts.has(id) && !state.case) setVerdict(id, null);
    if (state.record === id) closeRecord();
  };
  const leaveRecord = (fields) => {
    go({ ...EMPTY, ...fields }, { uploads: [] });
    refocus("#main");
  };

  useLayoutEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]):not([type=checkbox]), textarea, select, dialog")) return;
      if (event.key === "?") setHelp(true);
      else if (event.key === "u") event.repeat || takeBack();
      else if (event.key === "Escape" && state.record && !document.querySelector("details[open].chip, .chip details[open]")) closeRecord();
      else if (event.key === "/") document.querySelector(".tray .id-form input")?.focus();
      else if (event.key === "g") document.querySelector(".grid [tabindex='0']")?.focus();
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  });
  useEffect(() => {
    document.title = { search: "Search", records: "Records", cases: "Cases", alerts: "Alerts" }[state.view] + " \u00b7 not3d";
  }, [state.view]);

  const startAgain = () => {
    forgetOperator();
    location.reload(); // nothing of the session stays in memory
  };
  useEffect(() => {
    // The session belongs to all tabs. Another person's key must not act under the name that this tab shows.
    callers.onmessage = ({ data }) => session.caller && data !== session.caller.name && startAgain();
  }, [session.caller]);
  const signOut = async () => {
    try {
      await call("session", { method: "DELETE" });
    } catch (problem) {
      if (!problem.needsKey) return setLeaving(problem); // without a key, the session has ended already
    }
    callers.postMessage(null);
    return startAgain();
  };
  // The view stays while its session is renewed, with all that was typed. Another person's key begins with a new page.
  const signedIn = (caller) => {
    callers.postMessage(caller.name);
    if (session.caller && session.caller.name !== caller.name) return startAgain();
    setSignIn(null);
    setSession((now) => (now.caller ? { ...now, caller } : now));
    return keyGiven();
  };
  const may = (scope) => Boolean(session.caller?.scopes.some((each) => each === scope || each === "admin"));

  if (signIn && session.status !== "ready") {
    return html`
      <header class="top"><span class="brand">not3d</span></header>
      <main class="single"><h1>Sign in</h1><${SignIn} problem=${signIn} onDone=${signedIn} /></main>`;
  }
  if (session.status === "failed") {
    return html`<${Shell} state=${state}><main class="single"><h1>not3d</h1><${ProblemNote} problem=${session.problem} onRetry=${load} /></main></${Shell}>`;
  }
  const View = { records: RecordsView, cases: CasesView, alerts: AlertsView }[state.view] || SearchView;
  return html`
    <${Shell} state=${state} caller=${session.caller} hasCases=${session.hasCases} hasAlerts=${Boolean(session.newest)} unseen=${unseen} onSignOut=${signOut} onHelp=${() => setHelp(true)}>
      <main class=${state.record ? "with-record" : ""} id="main" tabindex="-1">
        ${session.caller && !may("search") ? html`<${NoScope} caller=${session.caller} />` : html`<${View} state=${state} go=${(fields, options) => { if (options?.changed) setChanges((now) => now + 1); go(fields, options); }}
          uploads=${uploads} setUploads=${(items) => go({}, { uploads: items })} info=${session.info} cameras=${cameras} verdicts=${verdicts}
          judge=${judge} author=${author} unconfirmed=${unconfirmed} opened=${opened} hasCases=${session.hasCases} may=${may} onOpen=${openRecord} changes=${changes} erased=${erased} />`}
        ${state.record && may("search") && html`<${RecordPanel} id=${state.record} may=${may} info=${session.info} onClose=${closeRecord} onOpen=${openRecord}
          onSimilar=${(id) => leaveRecord({ like: [id], cameras: state.cameras, after: state.after, before: state.before, metadata: state.metadata })}
          onPath=${(id) => leaveRecord({ like: [id], path: id, min: state.min })}
          onWatched=${(name) => go({ ...EMPTY, view: "alerts", watchlist: name })}
          onChanged=${() => setChanges((now) => now + 1)}
          onErased=${(id) => onErased.current(id)} />`}
      </main>
      ${help && html`<${Dialog} title="Keys" onClose=${() => setHelp(false)}>
        <dl class="facts">${KEYS.map(([keys, text]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${text}</dd></div>`)}</dl></${Dialog}>`}
      ${leaving && html`<${Dialog} title="You are still signed in" onClose=${() => setLeaving(null)}><${ProblemNote} problem=${leaving} onRetry=${signOut} /></${Dialog}>`}
      ${signIn && html`<${Dialog} title="Sign in again" class="sign-in"><p>Your session has ended. What you typed is kept.</p><${SignIn} problem=${signIn} onDone=${signedIn} /></${Dialog}>`}
    </${Shell}>`;
}

const NOTHING = [];
const UNSEEN_MILLISECONDS = 30_000;

/** The number of alerts since the page was opened or the view of alerts was left, as text; "" if there is none. */
function useUnseen(newest, isShown) {
  const [count, setCount] = useState("");
  const seen = useRef(null);
  useEffect(() => {
    if (!newest) return undefined;
    seen.current ??= newest;
    const look = async () => {
      try {
        const found = await call("alerts", { query: { after: seen.current, limit: 99 } });
        if (isShown) seen.current = found.cursor;
        setCount(isShown || !found.items.length ? "" : `${found.items.length}${found.more ? "+" : ""}`);
      } catch { /* the next look may succeed */ }
    };
    if (isShown) look();
    const timer = setInterval(look, UNSEEN_MILLISECONDS);
    return () => {
      clearInterval(timer);
      if (isShown) look();
    };
  }, [newest, isShown]);
  return count;
}

function Shell({ state, caller, hasCases, hasAlerts, unseen, onHelp, onSignOut, children }) {
  const link = (view, text) => html`<a href=${`#/${view}`} aria-current=${state.view === view ? "page" : undefined}>${text}</a>`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Go to the content</a>
    <header class="top">
      <a class="brand" href="#/search">not3d</a>
      <nav aria-label="Views">${link("search", "Search")}${link("records", "Records")}${hasCases && link("cases", "Cases")}${hasAlerts && link("alerts", unseen ? html`Alerts <span class="badge">${unseen}<span class="hidden"> new</span></span>` : "Alerts")}</nav>
      <span class="grow"></span>
      ${caller && caller.signed_in_by !== "nothing" && html`<bdi class="quiet caller" title=${`Scopes: ${caller.scopes.join(", ")}`}>${caller.name}</bdi>`}
      ${caller?.signed_in_by === "session" && html`<button type="button" class="plain" onClick=${onSignOut}>Sign out</button>`}
      ${onHelp && html`<button type="button" class="plain keys" onClick=${onHelp}>Keys <kbd>?</kbd></button>`}
    </header>
    ${children}`;
}

/** What a key that may do other things sees. */
function NoScope({ caller }) {
  return html`
    <div class="results"><div class="welcome"><h1>This key may not search</h1>
      <p>The page needs the scope <code>search</code>, and <bdi>${caller.name}</bdi> has ${caller.scopes.length ? html`<code>${caller.scopes.join(", ")}</code> only` : "no scope"}.</p>
      <p class="quiet">${caller.signed_in_by === "session" ? html`Sign out, and sign in with another key. The administrator of the service makes one: <code>not3d keys create NAME --scope search</code>.`
        : "Ask the administrator of the service for it."}</p></div></div>`;
}

function SignIn({ problem: reason, onDone }) {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(reason);
  const [isBusy, setBusy] = useState(false);
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      onDone(await call("session", { method: "POST", json: { key: key.trim() } }));
    } catch (found) {
      setProblem(found);
      setBusy(false);
    }
  };
  return html`
    <p>This service asks for an API key.</p>
    ${problem.kind !== "key-missing" && html`<p class="note error" role="alert">${problem.message.replace(/\.$/, "")}.${problem.needsKey && " Check the key, or ask for a new one."}</p>`}
    <form onSubmit=${submit}>
      <label>API key <input type="password" ref=${field} value=${key} onInput=${(event) => setKey(event.target.value)} autocomplete="current-password" required /></label>
      <div class="actions"><button type="submit" class="primary" disabled=${isBusy}>Sign in</button></div>
    </form>
    <p class="quiet">The page does not keep the key: it gets a session, which ends when you sign out. The administrator of the service makes keys:
      <code>not3d keys create NAME --scope search</code>.</p>`;
}

render(html`<${App} />`, document.getElementById("app"));
