// The view of the enrolled records, by camera and time.

import { call } from "./api.js";
import { hasFilter, metadataOf, toFilter } from "./address.js";
import { Filters } from "./filters.js";
import { formatShortTime, plural } from "./format.js";
import { Grid, NoPictures } from "./grid.js";
import { html, useEffect, useMemo, useRef, useState } from "./html.js";
import { ProblemNote } from "./parts.js";
import { EraseMany, openDialog } from "./record.js";
import { NoRecords } from "./search.js";

const PAGE = 120;
const EMPTY = { items: [], cursor: null, status: "loading" };

export function RecordsView({ state: address, go, info, may, cameras, onOpen, changes }) {
  const state = useMemo(() => listable(address), [address]);
  const [answer, setAnswer] = useState(EMPTY);
  const [current, setCurrent] = useState("");
  const controller = useRef(null);
  const limit = Math.min(PAGE, info?.limits.max_page ?? PAGE);
  const query = JSON.stringify([listQuery(state), metadataOf(state), limit]);
  const { items, cursor, status, problem } = answer.query === query ? answer : EMPTY; // never those of another filter

  const load = async (from) => {
    controller.current?.abort();
    const own = new AbortController();
    controller.current = own;
    setAnswer((now) => ({ ...(now.query === query ? now : EMPTY), query, status: "loading", problem: null }));
    const found = from ? [...items] : [];
    const enough = found.length + limit;
    const metadata = Object.entries(metadataOf(state));
    try {
      let next = from;
      do {
        const page = await call("gallery", { query: { ...listQuery(state), limit, cursor: next }, signal: own.signal });
        // A list has numbers also as text, unlike a search and an erasure.
        found.push(...page.items.filter((each) => metadata.every(([name, value]) => each.metadata[name] === value)));
        next = page.next_cursor;
      } while (next && found.length < enough);
      setAnswer({ query, items: found, cursor: next, status: "done" });
    } catch (failure) {
      if (failure.name !== "AbortError") setAnswer((now) => ({ ...(from ? now : EMPTY), query, status: "failed", problem: failure }));
    }
  };
  useEffect(() => {
    load(null);
    return () => controller.current?.abort();
  }, [query, changes]);

  const erase = () => openDialog((close) => html`<${EraseMany} filter=${toFilter(state)} words=${describe(state)} onClose=${close}
    onErased=${() => { close(); go({ record: "" }, { changed: true }); }} />`);
  return html`
    <div class="results">
      <div class="title-row">
        <h1>Records</h1>
        <span class="quiet" role="status">${status === "done" ? `${plural(items.length, "record")}${cursor ? " so far" : ""}`
          : status === "loading" && html`<span class="loading">Loading the records.</span>`}</span>
      </div>
      <${Filters} state=${state} cameras=${cameras} onChange=${(fields) => go(fields)} isListing=${true}>
        ${may("erase") && hasFilter(state) && html`<button type="button" class="danger" onClick=${erase}>Erase these records</button>`}
      </${Filters}>
      <${ProblemNote} problem=${problem} onRetry=${() => load(cursor)} />
      ${status === "done" && !items.length && (hasFilter(state)
        ? html`<p class="note">No record passes these filters. Records without a time pass no time filter.</p>` : html`<${NoRecords} info=${info} />`)}
      <${NoPictures} items=${items} info=${info} />
      <${Grid} items=${items} label="Records" verdicts=${null} current=${current}
        onCurrent=${setCurrent} onOpen=${onOpen} onEnd=${() => cursor && status === "done" && load(cursor)}
        onSimilar=${(id) => go({ ...CLEARED, view: "search", like: [id], record: "" }, { uploads: [] })} />
    </div>`;
}

/** The filters of an address that a listing can have: what is erased is what was listed. */
const listable = (state) => ({ ...state, cameras: state.cameras.slice(0, 1), from: "", to: "", others: false });

const listQuery = (state) => ({
  camera_id: state.cameras[0], after: state.after, before: state.before, without_time: state.timeless || null,
  ...Object.fromEntries(Object.entries(metadataOf(state)).map(([name, value]) => [`metadata.${name}`, String(value)])),
});

const CLEARED = { unlike: [], same: [], different: [], unsure: [], upload: false, cameras: [], after: "", before: "", timeless: false, metadata: [], min: "" };

function describe(state) {
  const parts = [];
  if (state.cameras.length) parts.push(`the camera${state.cameras.length > 1 ? "s" : ""} ${state.cameras.join(", ")}`);
  if (state.after) parts.push(`times from ${formatShortTime(state.after)}`);
  if (state.before) parts.push(`times until ${formatShortTime(state.before)}`);
  if (state.timeless) parts.push("no time");
  if (state.metadata.length) parts.push(`the metadata ${state.metadata.join(", ")}`);
  return parts.join(" and ");
}
