// The view of a search: query tray, threshold, timeline and grid.

import { call } from "./api.js";
import { hasFilter, toFilter } from "./address.js";
import { CasePanel, FailedVerdicts } from "./cases.js";
import { Filters } from "./filters.js";
import { formatCount, formatProbability, formatScore, plural, timeOf } from "./format.js";
import { focusTile, Grid, NoPictures } from "./grid.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { PathList, usePath } from "./path.js";
import { Command, ProblemNote } from "./parts.js";
import { getPurpose, Purpose } from "./purpose.js";
import { Timeline } from "./timeline.js";
import { Tray, useRecords } from "./tray.js";
import { addTo, findObstacle } from "./uploads.js";

const FIRST_TOP_K = 200;
const MORE_TOP_K = 400;
const SKELETON_AFTER = 150; // ms; shorter waits show nothing, so nothing flickers

/** The body of a search; a form if pictures or a video are part of it. */
function bodyOf(state, uploads, topK, details) {
  const filter = toFilter(state);
  const fields = { top_k: topK, paged: true };
  if (Object.keys(filter).length) fields.filter = filter;
  if (state.others) fields.exclude_same_camera = true;
  const purpose = getPurpose() || details?.purpose;
  if (purpose) fields.purpose = purpose;
  if (details) fields.case = details.id;
  const examples = uploads.length ? state.like : state.like.slice(1);
  if (examples.length) fields.ids = examples;
  if (state.unlike.length) fields.reject_ids = state.unlike;
  if (!uploads.length) return { json: state.like.length ? { id: state.like[0], ...fields } : fields };
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, typeof value === "string" ? value : JSON.stringify(value));
  addTo(form, uploads);
  return { form };
}

/** Run the search whenever its query or filters change. */
function useSearch(state, uploads, info, details) {
  const [answer, setAnswer] = useState({ status: "none" });
  const [more, setMore] = useState({ name: "", size: FIRST_TOP_K });
  const [tries, setTries] = useState(0);
  const limit = info?.limits.max_top_k ?? FIRST_TOP_K;
  const query = JSON.stringify([state.like, state.unlike, toFilter(state), state.from, state.to, state.others, details?.id]);
  const isWaiting = state.case && !details; // for the case, whose verdicts the search uses
  const isComplete = info && !isWaiting && (uploads.length || state.like.length || details?.query) && !findObstacle(uploads);
  const name = `${query} ${uploads.map((item) => item.key)}`;
  const size = Math.min(more.name === name ? more.size : FIRST_TOP_K, limit);
  const continuing = useRef(null);
  useEffect(() => {
    continuing.current?.abort();
    continuing.current = null;
    if (!isComplete) {
      setAnswer({ status: "none" });
      return undefined;
    }
    const controller = new AbortController();
    const timer = setTimeout(() => setAnswer((now) => ({ ...now, status: size > FIRST_TOP_K ? "more" : "slow" })), SKELETON_AFTER);
    call("search", { method: "POST", ...bodyOf(state, uploads, size, details), signal: controller.signal })
      .then((found) => setAnswer({ status: "done", ...found }))
      .catch((problem) => problem.name !== "AbortError" && setAnswer({ status: "failed", problem }))
      .finally(() => clearTimeout(timer));
    return () => {
      clearTimeout(timer);
      controller.abort();
      continuing.current?.abort();
    };
  }, [query, uploads, size, tries, Boolean(isComplete)]);

  const loadMore = () => {
    const cursor = answer.status === "done" ? answer.next_cursor : null;
    if (!cursor || continuing.current) return;
    const controller = new AbortController();
    continuing.current = controller;
    setAnswer((now) => ({ ...now, status: "more", failure: null }));
    const purpose = getPurpose() || details?.purpose;
    const body = { cursor, top_k: Math.min(answer.results.length, MORE_TOP_K), ...(purpose ? { purpose } : {}) };
    call("search", { method: "POST", json: body, signal: controller.signal }).then(
      (found) => {
        continuing.current = null;
        setAnswer((now) => ({ ...now, status: "done", results: [...now.results, ...found.results], next_cursor: found.next_cursor }));
      },
      (problem) => {
        if (problem.name === "AbortError") return;
        continuing.current = null;
        // The service keeps a search for some minutes only. Afterwards, the whole search is made again.
        if (problem.status === 404) setMore({ name, size: answer.results.length * 2 });
        else setAnswer((now) => ({ ...now, status: "done", failure: problem }));
      },
    );
  };
  const isFull = answer.status === "done" && answer.results.length >= limit && answer.searched > limit;
  return {
    answer,
    hasMore: answer.status === "done" && Boolean(answer.next_cursor),
    isAtLimit: isFull,
    loadMore,
    retry: () => setTries((now) => now + 1),
  };
}

export function SearchView({ state, go, uploads, setUploads, info, cameras, verdicts, unconfirmed, judge, opened, hasCases, onOpen, may, erased }) {
  const { answer, hasMore, isAtLimit, loadMore, retry } = useSearch(state, uploads, info, opened.details);
  const [current, setCurrent] = useState("");
  const found = answer.results || NONE;
  const hits = useMemo(() => (erased.size ? found.filter((hit) => !erased.has(hit.id)) : found), [found, erased]);
  const min = state.min === "" ? null : Number(state.min);
  const passing = useMemo(() => (min === null ? hits : hits.filter((hit) => hit.score >= min)), [hits, min]);
  const sorted = useMemo(() => (state.sort === "time" ? [...passing].sort(byTime) : passing), [passing, state.sort]);
  const records = useRecords(state.like, hits);
  const path = usePath(state.path, min);
  const queries = useMemo(() => state.like.map((id) => records.get(id)).filter(Boolean), [state.like, records]);
  const queryCamera = state.like.length ? queries[0]?.camera_id : null;

  // A threshold below everything that is loaded needs the rest.
  useEffect(() => {
    if (min !== null && hasMore && hits.length && hits.at(-1).score >= min) loadMore();
  }, [min, hasMore, hits]);

  // Only as long as the operator has not gone elsewhere: what is typed there must not become verdicts.
  const focusWhenDone = useRef(false);
  const similar = (id) => {
    focusWhenDone.current = true;
    go({ like: [id], unlike: [], same: [], different: [], unsure: [], upload: false, record: "", path: "" }, { uploads: [] });
  };
  useEffect(() => {
    if (!["done", "failed"].includes(answer.status) || !focusWhenDone.current) return;
    focusWhenDone.current = false;
    const { activeElement: at, body } = document;
    if (sorted.length && (at === body || at.id === "main" || at.closest(".grid"))) focusTile(sorted[0].id);
  }, [answer]);
  const again = () => {
    if (!opened.details && !(state.same.length || state.different.length)) return undefined;
    focusWhenDone.current = Boolean(document.activeElement?.closest(".grid"));
    if (opened.details) return retry();
    return go({ like: unique([...state.like, ...state.same]), unlike: unique([...state.unlike, ...state.different]), same: [], different: [] });
  };
  useLayoutEffect(() => { // with the verdict of the key before
    const press = (event) => {
      if (event.key !== "r" || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
      again();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  });
  const onVerdict = (id, verdict) => {
    judge(id, verdict);
    const at = sorted.findIndex((hit) => hit.id === id);
    const next = sorted[at + 1];
    if (next && document.activeElement?.closest(".grid")) focusTile(next.id); // at once: the next key is for the next tile
  };
  const pick = (id) => {
    setCurrent(id);
    requestAnimationFrame(() => requestAnimationFrame(() => focusTile(id)));
  };
  const isEmpty = info?.gallery.records === 0;
  const isIdle = answer.status === "none";

  return html`
    <div class="search">
      <${Tray} state=${state} uploads=${uploads} records=${records} hits=${hits} limits=${info?.limits} embeds=${info?.model !== null}
        verdicts=${verdicts} judge=${judge} isCase=${Boolean(opened.details)}
        onUploads=${setUploads} onState=${(fields) => go(fields)} onSearchAgain=${again} onOpen=${onOpen}>
        <${Purpose} isMissing=${answer.problem?.names("purpose")} onDone=${() => answer.status === "failed" && retry()} />
        ${hasCases && html`<${CasePanel} key=${state.case} state=${state} go=${go} opened=${opened} hasUploads=${uploads.length > 0} purpose=${getPurpose()} may=${may} info=${info} />`}
      </${Tray}>
      <div class="results">
        <h1 class="hidden">Search</h1>
        <${Filters} state=${state} cameras=${cameras} queryCamera=${queryCamera} onChange=${(fields) => go(fields)}>
          ${hits.length > 0 && html`<span class="sort" role="group" aria-label="Sort by">
            <button type="button" aria-pressed=${state.sort !== "time"} onClick=${() => go({ sort: "" })}>Rank</button>
            <button type="button" aria-pressed=${state.sort === "time"} onClick=${() => go({ sort: "time" })}>Time</button>
          </span>`}
        </${Filters}>
        <${FailedVerdicts} opened=${opened} />
        ${answer.status === "failed" && html`<${ProblemNote} problem=${answer.problem} onRetry=${retry} />`}
        ${answer.warnings?.map((text) => html`<p class="note" role="status" key=${text}>${text.replace(/\.?$/, ".")} ${/full frame/.test(text) && "Draw a box on the picture in the query."}</p>`)}
        ${isEmpty ? html`<${NoRecords} info=${info} />` : isIdle && html`<${Welcome} info=${info} state=${state} />`}
        ${answer.status === "slow" && html`<${Skeleton} />`}
        ${hits.length > 0 && answer.status !== "slow" && html`
          <${Threshold} hits=${hits} passing=${passing} min=${min} searched=${answer.searched} hasMore=${hasMore || isAtLimit} info=${info} calibration=${answer.calibration}
            onChange=${(value) => go({ min: value }, { replace: true })} />
          <${Timeline} hits=${sorted} queries=${queries} steps=${path.steps} verdicts=${verdicts} current=${current} onPick=${pick} />
          <${PathList} path=${path} onOpen=${onOpen} onClose=${() => go({ path: "" })} />
          <${NoPictures} items=${hits} info=${info} />
          <${Grid} items=${sorted} label="Probable appearances" verdicts=${verdicts} unconfirmed=${unconfirmed} current=${current}
            onCurrent=${setCurrent} onVerdict=${onVerdict} onOpen=${onOpen} onSimilar=${similar} onEnd=${loadMore} />
          ${!sorted.length && html`<p class="note">No result is above the threshold. The best score is ${formatScore(hits[0].score)}.</p>`}
          ${isAtLimit && html`<p class="quiet">The service lists at most ${formatCount(hits.length)} results. Filters narrow the search.</p>`}`}
        ${answer.status === "done" && !hits.length && html`
          <div class="note"><p><strong>No record passes.</strong> ${hasFilter(state) ? "Remove a filter, or choose a longer time." : "The gallery has no other record."}</p></div>`}
        <${ProblemNote} problem=${answer.failure} onRetry=${loadMore} />
        ${answer.status === "more" && html`<p class="quiet" role="status">Loading more results.</p>`}
        <p class="hidden" role="status">${answer.status === "done" ? `${plural(passing.length, "probable appearance")}` : ""}</p>
      </div>
    </div>`;
}

const NONE = [];
const unique = (items) => [...new Set(items)];
const byTime = (a, b) => (timeOf(a) ?? Infinity) - (timeOf(b) ?? Infinity) || a.rank - b.rank;

function Threshold({ hits, passing, min, searched, hasMore, info, calibration, onChange }) {
  const scores = hits.map((hit) => hit.score);
  const low = Math.floor(Math.min(...scores, min ?? 1) * 100) / 100;
  const high = Math.ceil(scores[0] * 100) / 100;
  const all = min === null || min <= scores.at(-1);
  const worst = passing.at(-1);
  const thresholds = (calibration && info?.thresholds) || NONE; // those of the calibration hold for its scores only
  const known = thresholds.filter((each) => each.score <= (min ?? -1));
  const best = known.reduce((found, each) => (!found || each.score > found.score ? each : found), null);
  const error = (share) => formatProbability(share);
  return html`
    <div class="threshold">
      <label>Threshold <input type="range" min=${low} max=${high} step="0.01" value=${min ?? low}
        aria-valuetext=${`score ${formatScore(min ?? low)}, ${passing.length} results pass`}
        onInput=${(event) => onChange(Number(event.target.value) <= low ? "" : event.target.value)} /></label>
      <output>${formatScore(min ?? low)}${worst?.probability !== undefined && html` <span class="quiet">probability from ${formatProbability(worst.probability)}</span>`}</output>
      <span class="count">${all && hasMore ? "at least " : ""}<strong>${formatCount(passing.length)}</strong> of ${plural(searched, "record")} ${passing.length === 1 ? "passes" : "pass"}</span>
      ${thresholds.length > 0 && html`
        <select aria-label="Threshold by error rate" onChange=${(event) => event.target.value !== "" && onChange(event.target.value)}>
          <option value="" selected=${!best || best.score !== min}>by error rate</option>
          ${thresholds.map((each) => html`<option key=${each.fmr} value=${each.score} selected=${each.score === min}>false ${each.fmr * 100} %: ${formatScore(each.score)}</option>`)}
        </select>`}
      ${best && html`<span class="quiet">At ${formatScore(best.score)}, ${best.fmr * 100} % of other people pass, and ${error(best.fnmr)} of the person's appearances are missed (95 % interval ${error(best.fnmr_low)} to ${error(best.fnmr_high)}).</span>`}
      ${calibration
        ? calibration.source === "bundle" && html`<span class="quiet">Calibrated on another site: probabilities are a rough guide here.</span>`
        : html`<details class="hint"><summary>No probabilities</summary><p>${info?.calibration ? "The calibration in force is for other scores than those of this search." : html`Scores say which record looks more alike, not how likely it is the person. Fit a calibration: <${Command} text="not3d calibrate --help" />`}</p></details>`}
    </div>`;
}

function Welcome({ info, state }) {
  return html`
    <div class="welcome">
      <h2>Where else did this person probably appear?</h2>
      <ol>
        <li>${info?.model === null ? html`Choose <strong>Find similar</strong> on a record, or enter its id.`
          : html`Drop a picture here, paste one, or choose <strong>Find similar</strong> on a record. A full frame needs a box around the person.`}</li>
        <li>Compare the pictures. Keys <kbd>1</kbd> same, <kbd>2</kbd> different, <kbd>3</kbd> unsure; <kbd>?</kbd> lists all keys.</li>
        <li>Search again: confirmed and rejected pictures improve the ranking.</li>
      </ol>
      <p class="quiet">Results are probable appearances, mostly by clothing, within hours or a day. They do not say who a person is: look at the footage before anything follows.</p>
      ${info && html`<p class="quiet">${plural(info.gallery.records, "record")} in the gallery. ${info.model ? html`Model <bdi>${info.model.name}</bdi>.` : html`Vectors of another system, in the space <bdi>${info.embedding_space}</bdi>.`}</p>`}
      ${!state.like.length && html`<p><a href="#/records">Browse the records</a></p>`}
    </div>`;
}

/** What to do with an empty gallery. */
export function NoRecords({ info }) {
  const url = new URL("../../", import.meta.url).href.replace(/\/$/, "");
  if (info?.model === null) return html`
    <div class="welcome">
      <h2>The gallery has no records yet</h2>
      <p>This service stores vectors of the space <bdi>${info.embedding_space}</bdi>, which another system computes. Enrol a file of them:</p>
      <p><${Command} text=${`not3d vectors FILE.jsonl --url ${url}`} /></p>
      <p class="quiet">Then load this page again.</p>
    </div>`;
  return html`
    <div class="welcome">
      <h2>The gallery has no records yet</h2>
      <p>Enrol tracklets, the crops of one person that one camera's tracker followed. For example, a folder of tracklets:</p>
      <p><${Command} text=${`not3d enroll FOLDER --url ${url}`} /></p>
      <p class="quiet">Then load this page again.</p>
    </div>`;
}

function Skeleton() {
  return html`<ul class="grid" role="list" aria-label="Searching" aria-busy="true">${Array.from({ length: 18 }, (_, index) => html`
    <li class="tile skeleton" key=${index}><span class="frame"></span><span class="line"></span></li>`)}</ul>
    <p class="hidden" role="status">Searching.</p>`;
}
