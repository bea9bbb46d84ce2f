// One record, beside the results: its pictures, its facts, its neighbours in time, and how to erase it.

import { call, forgetPictures, recordPath } from "./api.js";
import { duration, formatTime, plural } from "./format.js";
import { html, render, useEffect, useRef, useState } from "./html.js";
import { ChangeRecord } from "./change.js";
import { Command, Dialog, Facts, Picture, ProblemNote, refocus, Value } from "./parts.js";
import { WatchDialog } from "./watchlists.js";

const NEIGHBOUR_SECONDS = 300;

/** Return the receipt of the newest removal of a record, or `null` if this key may not read the audit log. */
async function findReceipt(id) {
  try {
    const { entries } = await call("audit", { query: { limit: 20, kind: "delete" } });
    return entries.find((entry) => entry.filter.id === id)?.receipt_id ?? null;
  } catch {
    return null;
  }
}

/** Show the dialog that `draw(close)` returns. It stays if the address changes, and an erasure that runs ends with its receipt. */
export function openDialog(draw) {
  const root = document.body.appendChild(document.createElement("div"));
  render(draw(() => {
    render(null, root);
    root.remove();
    refocus("#main");
  }), root);
}

export function RecordPanel({ id, info, may, onClose, onOpen, onSimilar, onPath, onWatched, onErased, onChanged }) {
  const [found, setRecord] = useState(undefined);
  const record = found?.id === id ? found : undefined;
  const [problem, setProblem] = useState(null);
  const [neighbours, setNeighbours] = useState([]);
  const heading = useRef(null);

  useEffect(() => {
    setRecord(undefined);
    setProblem(null);
    setNeighbours([]);
    const controller = new AbortController();
    call(recordPath(id), { signal: controller.signal }).then(setRecord, (failure) => failure.name !== "AbortError" && setProblem(failure));
    heading.current?.focus();
    return () => controller.abort();
  }, [id]);
  useEffect(() => {
    if (!record?.camera_id || !record.start_time) return undefined;
    const controller = new AbortController();
    const around = (seconds) => new Date(Date.parse(record.start_time) + seconds * 1000).toISOString();
    const query = { camera_id: record.camera_id, after: around(-NEIGHBOUR_SECONDS), before: around(NEIGHBOUR_SECONDS), limit: Math.min(50, info?.limits.max_page ?? 50) };
    call("gallery", { query, signal: controller.signal }).then(
      (page) => setNeighbours(page.items.filter((each) => each.id !== id).sort((a, b) => Date.parse(a.start_time) - Date.parse(b.start_time))),
      () => {},
    );
    return () => controller.abort();
  }, [record]);

  const watch = () => openDialog((close) => html`<${WatchDialog} examples=${{ ids: [id] }} info=${info} onClose=${close} onDone=${(name) => { close(); onWatched(name); }} />`);
  const change = () => openDialog((close) => html`<${ChangeRecord} record=${record} onClose=${close}
    onChanged=${(changed) => { close(); setRecord((now) => (now?.id === id ? changed : now)); onChanged(); }} />`);
  const erase = () => openDialog((close) => html`<${EraseRecord} record=${record} onClose=${close} onErased=${() => { close(); onErased(id); }} />`);
  const kept = record?.thumbnail_url ? Math.max(1, record.thumbnails ?? 1) : 0;
  return html`
    <aside class="record" aria-labelledby="record-title">
      <div class="dialog-head">
        <h2 id="record-title" tabindex="-1" ref=${heading}><bdi>${id}</bdi></h2>
        <button type="button" class="icon" aria-label="Close the record" onClick=${onClose}>${"\u00d7"}</button>
      </div>
      ${problem && (problem.status === 404
        ? html`<p class="note">This record is not in the gallery. It was erased, has expired, or was never enrolled.</p>`
        : html`<${ProblemNote} problem=${problem} />`)}
      ${record && html`
        ${kept ? html`<div class="pictures">${Array.from({ length: kept }, (_, frame) => html`
          <${Picture} key=${frame} id=${id} frame=${frame} alt=${`Picture ${frame + 1} of ${kept}`} />`)}</div>`
          : html`<p class="quiet">No picture is kept of this record.</p>`}
        <div class="actions">
          <button type="button" class="primary" onClick=${() => onSimilar(id)}>Find similar</button>
          ${(record.start_time || record.end_time) && html`<button type="button" onClick=${() => onPath(id)}>Probable path</button>`}
          ${may("admin") && html`<button type="button" onClick=${watch}>Watch for this person</button>`}
          ${may("enroll") && html`<button type="button" onClick=${change}>Change</button>`}
          ${may("erase") && html`<button type="button" class="danger" onClick=${erase}>Erase</button>`}
        </div>
        <${Facts} rows=${[
          ["Camera", html`<bdi>${record.camera_id ?? "none"}</bdi>`],
          ["From", formatTime(record.start_time)],
          ["Until", record.end_time ? formatTime(record.end_time) : null],
          ["Duration", duration(record)],
          ["Frames", record.frames || "none (enrolled as a vector)"],
          ["Enrolled", formatTime(record.created_at)],
          ["Expires", record.expires_at ? formatTime(record.expires_at) : "never"],
        ]} />
        ${Object.keys(record.metadata).length > 0 && html`
          <h3>Metadata</h3>
          <${Facts} rows=${Object.entries(record.metadata).map(([name, value]) => [name, html`<${Value} value=${value} />`])} />`}
        ${neighbours.length > 0 && html`
          <h3>Near in time on this camera</h3>
          <ul class="small-items" role="list">${neighbours.map((each) => html`
            <li key=${each.id}><button type="button" class="face" title=${each.id} aria-label=${`Open ${each.id}, ${formatTime(each.start_time)}`} onClick=${() => onOpen(each.id)}>
              ${each.thumbnail_url ? html`<${Picture} id=${each.id} />` : html`<bdi class="id">${each.id}</bdi>`}</button></li>`)}</ul>`}`}
    </aside>`;
}

const ERASING = html`<span class="quiet loading" role="status">Erasing.</span>`;

function EraseRecord({ record, onClose, onErased }) {
  const [state, setState] = useState({ status: "ask" });
  const isBusy = useErasure(state);
  const erase = async () => {
    if (isBusy) return;
    setState({ status: "busy" });
    try {
      await call(recordPath(record.id), { method: "DELETE" });
      forgetPictures();
      setState({ status: "done", receipt: await findReceipt(record.id) });
    } catch (problem) {
      setState({ status: "failed", problem });
    }
  };
  const close = state.status === "done" ? onErased : onClose;
  return html`
    <${Dialog} title=${state.status === "done" ? "Erased" : "Erase this record?"} onClose=${isBusy ? undefined : close}>
      ${state.status === "done"
        ? html`<${Receipt} receipt=${state.receipt} text="The record, its vector and its pictures are erased." />
          <div class="actions"><button type="button" class="primary" onClick=${close}>Close</button></div>`
        : html`
          <p>1 record will be erased: <bdi><strong>${record.id}</strong></bdi>, <bdi>${record.camera_id ?? "no camera"}</bdi>, ${formatTime(record.start_time)}. Its vector and pictures go with it. This cannot be undone.</p>
          <p class="quiet">Other records of the same person stay. Find similar ones first if all must go.</p>
          <${ProblemNote} problem=${state.problem} />
          <div class="actions">
            <button type="button" class="danger" aria-disabled=${isBusy} onClick=${erase}>Erase 1 record</button>
            <button type="button" disabled=${isBusy} onClick=${close}>Keep it</button>
            ${isBusy && ERASING}
          </div>`}
    </${Dialog}>`;
}

/** Whether an erasure runs. The focus stays in its dialog when a button goes: elsewhere, a second Escape would close it. */
function useErasure({ status }) {
  useEffect(() => refocus("dialog .primary", "dialog .icon"), [status]);
  return status === "busy";
}

function Receipt({ receipt, text }) {
  return html`
    <p role="status">${text}</p>
    ${receipt ? html`<p>Receipt <strong><bdi>${receipt}</bdi></strong>, in the audit log.</p>`
      : html`<p class="quiet">The receipt is in the audit log, which this key may not read: <${Command} text="not3d gallery audit" /></p>`}`;
}

const TELLS = { record: "asks with one of the records", footage: "keeps footage of the person", null: "has verdicts on the records" };

/** The cases that name records which are erased; those whose footage stays come with what to do. */
function NamingCases({ cases, isErased, onOpen }) {
  if (!cases?.length) return null;
  return html`
    <p>${plural(cases.length, "case")} ${cases.length === 1 ? "names" : "name"} ${isErased ? "erased records" : "these records"}:</p>
    <ul>${cases.map((each) => html`<li key=${each.id}><a href=${`#/search?case=${encodeURIComponent(each.id)}`} onClick=${onOpen}><bdi>${each.name}</bdi></a> (${each.status}) ${TELLS[each.query]}.</li>`)}</ul>
    ${cases.some((each) => each.query === "footage") && html`<p class="note">An operator said that this footage shows the person of one of the records. <strong>The case keeps it.</strong> Look at it, and remove the case if it does: <${Command} text="not3d case delete CASE" /> (scope <code>admin</code>)</p>`}`;
}

/** Erase all records that a filter matches: first a dry run, then the erasure with its receipt. */
export function EraseMany({ filter, words, onClose, onErased }) {
  const [state, setState] = useState({ status: "counting" });
  const [typed, setTyped] = useState("");
  const isBusy = useErasure(state);
  useEffect(() => {
    call("gallery/erase", { method: "POST", json: { filter, dry_run: true } }).then(
      (found) => setState({ status: "ask", ...found }),
      (problem) => setState({ status: "failed", problem }),
    );
  }, []);
  const erase = async (event) => {
    event.preventDefault();
    if (isBusy) return;
    setState((now) => ({ ...now, status: "busy" }));
    try {
      const found = await call("gallery/erase", { method: "POST", json: { filter, dry_run: false, expected: state.matched } });
      forgetPictures();
      setState({ status: "done", ...found });
    } catch (problem) {
      setState({ status: "failed", problem });
    }
  };
  const close = state.status === "done" ? onErased : onClose;
  return html`
    <${Dialog} title=${state.status === "done" ? "Erased" : "Erase records"} onClose=${isBusy ? undefined : close}>
      ${state.status === "counting" && html`<p role="status">Counting the records.</p>`}
      ${state.status === "failed" && html`<${ProblemNote} problem=${state.problem} />`}
      ${state.status === "done" && html`<${Receipt} receipt=${state.receipt_id} text=${`${plural(state.erased, "record")} erased, with vectors and pictures.`} />
        <${NamingCases} cases=${state.cases} isErased onOpen=${close} />
        <div class="actions"><button type="button" class="primary" onClick=${close}>Close</button></div>`}
      ${(state.status === "ask" || isBusy) && html`
        <p>Dry run: <strong>${plural(state.matched, "record")}</strong> ${state.matched === 1 ? "passes" : "pass"} the filter: ${words}. Nothing is erased yet.</p>
        ${state.without_time > 0 && html`<p class="note">${plural(state.without_time, "record")} without a time ${state.without_time === 1 ? "is" : "are"} passed over.</p>`}
        <${NamingCases} cases=${state.cases} onOpen=${!isBusy && close} />
        ${state.matched > 0 && html`
          <form onSubmit=${erase}>
            <label>To erase, type the number of records <input type="text" inputmode="numeric" value=${typed} autocomplete="off" onInput=${(event) => setTyped(event.target.value)} /></label>
            <div class="actions">
              <button type="submit" class="danger" aria-disabled=${isBusy} disabled=${typed.replace(/\D/g, "") !== String(state.matched)}>Erase ${plural(state.matched, "record")}</button>
              <button type="button" disabled=${isBusy} onClick=${close}>Keep them</button>
              ${isBusy && ERASING}
            </div>
          </form>`}`}
    </${Dialog}>`;
}
