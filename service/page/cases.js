// Cases: named searches with a purpose, whose verdicts are kept with their authors, and that can be exported.

import { call, send } from "./api.js";
import { EMPTY } from "./address.js";
import { formatTime, plural } from "./format.js";
import { html, useCallback, useEffect, useRef, useState } from "./html.js";
import { ProblemNote } from "./parts.js";
import { WatchDialog } from "./watchlists.js";

const PAGE = 100;
const casePath = (id) => `cases/${encodeURIComponent(id)}`;
const NONE = [];
const setting = (verdict) => (verdict ? { method: "PUT", json: { verdict } } : { method: "DELETE" });
const verdictPath = (id, record) => `${casePath(id)}/verdicts/${encodeURIComponent(record)}`;

/** Return an open case and what changes it; `details` is `null` without one. `author()` is the operator at the keyboard. */
export function useCase(id, author) {
  const [details, setDetails] = useState(null);
  const [problem, setProblem] = useState(null);
  const [failed, setFailed] = useState(NONE); // verdicts that were not stored, with the reason: `{ record, verdict, problem }`
  const work = useRef({ id, last: Promise.resolve(), waiting: 0 });
  work.current.id = id;
  const load = useCallback(async () => {
    const isWanted = () => work.current.id === id;
    setProblem(null);
    try {
      const found = id ? await call(casePath(id)) : null;
      if (isWanted()) setDetails(found);
    } catch (found) {
      if (!isWanted()) return;
      setDetails(null);
      setProblem(found);
    }
  }, [id]);
  useEffect(() => {
    setFailed(NONE);
    load();
  }, [load]);
  // Changes are sent one after the other, so the last answer has them all. A verdict is shown at once.
  const attempt = (path, options, shown = (now) => now, onFailure = setProblem) => {
    const { current } = work;
    setProblem(null);
    setDetails((now) => now && shown(now));
    current.waiting += 1;
    current.last = current.last.then(async () => {
      try {
        const changed = await call(path, options);
        current.waiting -= 1;
        if (current.id === id && !current.waiting) setDetails(changed);
      } catch (found) {
        current.waiting -= 1;
        if (current.id !== id) return;
        await load();
        onFailure(found);
      }
    });
    return current.last;
  };
  const withVerdict = (record, verdict, by = author()) => (now) => ({
    ...now,
    verdicts: [...now.verdicts.filter((each) => each.id !== record || each.author !== by), ...(verdict ? [{ id: record, verdict, author: by }] : [])],
  });
  return {
    details: details?.id === id ? details : null,
    problem,
    failed,
    forgetFailed: () => setFailed(NONE),
    judge: (record, verdict) => {
      setFailed((now) => now.filter((each) => each.record !== record));
      const keep = (found) => setFailed((now) => [...now.filter((each) => each.record !== record), { record, verdict, problem: found }]);
      return attempt(verdictPath(id, record), setting(verdict), withVerdict(record, verdict), keep);
    },
    change: (fields) => attempt(casePath(id), { method: "PATCH", json: fields }),
  };
}

/** The latest verdict of any operator on each record of a case. */
export function verdictsOf(details) {
  const verdicts = new Map();
  for (const each of details.verdicts) verdicts.set(each.id, each.verdict);
  return verdicts;
}

/** What `author` said of a record, or `null`. */
export const ownVerdict = (details, id, author) => details.verdicts.find((each) => each.id === id && each.author === author)?.verdict ?? null;

/** How many operators gave the shown verdict, such as `1 of 2`, by the id of each record on which it does not count yet. */
export function unconfirmedOf(details) {
  const found = new Map();
  if (!details || details.confirmations < 2) return found;
  for (const [id, verdict] of verdictsOf(details)) {
    const authors = new Set(details.verdicts.filter((each) => each.id === id && each.verdict === verdict).map((each) => each.author));
    if (!details.decided[verdict].includes(id)) found.set(id, `${Math.min(authors.size, details.confirmations - 1)} of ${details.confirmations}`); // names of one key may be one person
  }
  return found;
}

/** A button that downloads a case as a file. Unlike a link, it can sign in, says who exports, and shows an error. */
function Export({ id, label, class: name, children }) {
  const [isBusy, setIsBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const download = async () => {
    try {
      setProblem(null);
      setIsBusy(true);
      const response = await send(`${casePath(id)}/export`);
      const address = URL.createObjectURL(await response.blob());
      const link = document.createElement("a");
      Object.assign(link, { href: address, download: `case-${id}.zip` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (found) {
      setProblem(found);
    } finally {
      setIsBusy(false);
    }
  };
  return html`
    <button type="button" class=${name} aria-label=${label} disabled=${isBusy} onClick=${download}>${children}</button>
    <${ProblemNote} problem=${problem} />`;
}

/** The part of the query tray about the case. */
export function CasePanel({ state, go, opened, hasUploads, purpose, may, info }) {
  const { details, problem, change } = opened;
  const [watching, setWatching] = useState(false);
  const [name, setName] = useState("");
  const [reason, setReason] = useState(purpose);
  const [failure, setFailure] = useState(null);
  const [isBusy, setIsBusy] = useState(false);
  const begun = useRef(null); // a case whose verdicts could not all be stored: another attempt goes on with it
  const busy = useRef(false);
  const latest = useRef(state);
  latest.current = state;
  const isHere = useRef(true);
  useEffect(() => () => { isHere.current = false; }, []);
  const start = async (event) => {
    event.preventDefault();
    if (busy.current) return; // the button is disabled a moment later
    busy.current = true;
    setIsBusy(true);
    try {
      setFailure(null);
      const query = !hasUploads && state.like.length ? { query: { id: state.like[0] } } : {};
      const texts = { name: name.trim(), purpose: reason.trim() };
      const goesOn = begun.current?.of === JSON.stringify(query);
      const made = goesOn
        ? await call(casePath(begun.current.id), { method: "PATCH", json: texts })
        : await call("cases", { method: "POST", json: { ...texts, ...query } });
      begun.current = { id: made.id, of: JSON.stringify(query) };
      const sent = new Map();
      // Verdicts may be given meanwhile, so what is still different is looked for after each one.
      for (;;) {
        const given = givenIn(latest.current, hasUploads);
        const next = [...given, ...[...sent].map(([id]) => [id, null])].find(([id]) => sent.get(id) !== given.get(id));
        if (!next) break;
        await call(verdictPath(made.id, next[0]), setting(given.get(next[0])));
        sent.set(next[0], given.get(next[0]));
      }
      begun.current = null;
      if (!isHere.current || latest.current.like[0] !== state.like[0]) return; // it is in the list of cases
      go({ case: made.id, like: hasUploads ? [] : state.like.slice(0, 1), unlike: [], same: [], different: [], unsure: [] });
    } catch (found) {
      setFailure(found);
    } finally {
      busy.current = false;
      setIsBusy(false);
    }
  };
  if (!state.case) {
    if (!hasUploads && !state.like.length) return null;
    return html`
      <details class="case">
        <summary>Start a case</summary>
        <form onSubmit=${start}>
          <label>Name <input type="text" required maxlength="200" value=${name} onInput=${(event) => setName(event.target.value)} /></label>
          <label>Purpose <input type="text" required maxlength="1000" value=${reason} onInput=${(event) => setReason(event.target.value)} /></label>
          <p class="quiet">A case keeps the query, the verdicts and who gave them.</p>
          <${ProblemNote} problem=${failure} />
          <button type="submit" disabled=${isBusy}>Start the case</button>
        </form>
      </details>`;
  }
  return html`
    <section class="case" aria-labelledby="case-title">
      <h2 id="case-title">Case</h2>
      ${problem && (details || ![400, 404].includes(problem.status)) ? html`<${ProblemNote} problem=${problem} />`
        : problem && html`<p class="note error" role="alert">This case does not exist, or your key may not see it. Its name in the address may be incomplete.</p>`}
      ${problem && !details && html`
        <p class="quiet">The search waits for its case.</p>
        <div><button type="button" onClick=${() => go({ case: "" })}>Leave the case</button></div>`}
      ${details && html`
        <p><strong><bdi>${details.name}</bdi></strong>${details.status === "closed" && " (closed)"}</p>
        <p class="quiet"><bdi>${details.purpose}</bdi></p>
        <p class="quiet">${countsOf(details)}${details.confirmations > 1 && `. A verdict counts when ${details.confirmations} operators gave it`}.</p>
        <div class="actions">
          <${Export} id=${details.id}>Export<//>
          <button type="button" onClick=${() => change({ status: details.status === "closed" ? "open" : "closed" })}>${details.status === "closed" ? "Reopen" : "Close"} the case</button>
          ${may("admin") && html`<button type="button" onClick=${() => setWatching(true)}>Watch for this person</button>`}
          <button type="button" class="plain" onClick=${() => go({ case: "" })}>Leave it</button>
        </div>
        ${watching && html`<${WatchDialog} examples=${{ case: details.id }} info=${info} onClose=${() => setWatching(false)}
          onDone=${(name) => go({ ...EMPTY, view: "alerts", watchlist: name }, { uploads: [] })} />`}`}
    </section>`;
}

/** The verdicts that a new case begins with, by the id of the record. */
function givenIn(state, hasUploads) {
  const given = new Map(["same", "different", "unsure"].flatMap((verdict) => state[verdict].map((id) => [id, verdict])));
  for (const id of state.like.slice(hasUploads ? 0 : 1)) given.set(id, "same");
  for (const id of state.unlike) given.set(id, "different");
  return given;
}

const reasonOf = (problem) => (problem.kind === "case-closed" ? "The case is closed. Reopen it to change its verdicts." : problem.message);

/** Verdicts of a case that were not stored. They stay until they are sent again or dismissed. */
export function FailedVerdicts({ opened }) {
  const { failed, judge, forgetFailed } = opened;
  if (!failed.length) return null;
  return html`
    <div class="note error" role="alert">
      <p><strong>${plural(failed.length, "verdict")} not stored.</strong> ${reasonOf(failed.at(-1).problem)}</p>
      <p>${failed.map(({ record, verdict }, index) => html`${index > 0 && ", "}<bdi>${record}</bdi> ${verdict ?? "taken back"}`)}</p>
      <button type="button" onClick=${() => failed.forEach((each) => judge(each.record, each.verdict))}>Send again</button>
      <button type="button" class="plain" onClick=${forgetFailed}>Dismiss</button>
    </div>`;
}

const countsOf = (each) => `${each.counts.same ?? 0} same, ${each.counts.different ?? 0} different, ${each.counts.unsure ?? 0} unsure`;

/** The list of cases. */
export function CasesView({ go }) {
  const [items, setItems] = useState(null);
  const [problem, setProblem] = useState(null);
  const [hasMore, setHasMore] = useState(false);
  const load = async (before) => {
    try {
      setProblem(null);
      const found = await call("cases", { query: { limit: PAGE, before } });
      setItems((now) => (before ? [...now, ...found.items] : found.items));
      setHasMore(found.items.length === PAGE);
    } catch (failure) {
      setProblem(failure);
    }
  };
  useEffect(() => { load(); }, []);
  const open = (each) => go({ ...EMPTY, case: each.id, like: each.query?.id ? [each.query.id] : [] }, { uploads: [] });
  return html`
    <div class="results">
      <h1>Cases</h1>
      <${ProblemNote} problem=${problem} onRetry=${() => load()} />
      ${items?.length === 0 && html`
        <div class="welcome"><h2>No case yet</h2>
          <p>A case keeps a query, the verdicts on its results and who gave them. It can be exported as one file that opens offline.</p>
          <p>Search for a person, then choose <strong>Start a case</strong> below the query.</p></div>`}
      ${items?.length > 0 && html`
        <div class="table"><table>
          <caption class="hidden">Cases, newest first</caption>
          <thead><tr><th scope="col">Name</th><th scope="col">Purpose</th><th scope="col">Verdicts</th><th scope="col">Begun</th><th scope="col">Status</th><th scope="col">Export</th></tr></thead>
          <tbody>${items.map((each) => html`
            <tr key=${each.id}>
              <td><button type="button" class="plain" onClick=${() => open(each)}><bdi>${each.name}</bdi></button></td>
              <td><bdi>${each.purpose}</bdi></td>
              <td>${countsOf(each)}</td>
              <td>${formatTime(each.created_at)}, <bdi>${each.created_by}</bdi></td>
              <td>${each.status}</td>
              <td><${Export} id=${each.id} label=${`Export ${each.name}`} class="plain">zip<//></td>
            </tr>`)}</tbody>
        </table></div>
        <p class="quiet" role="status">${plural(items.length, "case")}${hasMore ? " so far" : ""}</p>
        ${hasMore && html`<div><button type="button" onClick=${() => load(items.at(-1).id)}>Show older cases</button></div>`}`}
    </div>`;
}
