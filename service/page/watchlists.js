// The dialogs that make, change and delete a watchlist.

import { call } from "./api.js";
import { fromLocalInput, plural, toLocalInput } from "./format.js";
import { html, useState } from "./html.js";
import { Dialog, ProblemNote } from "./parts.js";

const path = (name) => `watchlists/${encodeURIComponent(name)}`;

/** Send the change of a dialog, which stays until it is answered. */
function useChange(onClose) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const attempt = async (change) => {
    setBusy(true);
    setProblem(null);
    await change().catch(setProblem);
    setBusy(false);
  };
  return { problem, busy, attempt, close: () => busy || onClose() };
}

/** Make a watchlist from `examples` (`{ids}` or `{case}`), or change `watchlist`, which keeps its examples. */
export function WatchDialog({ watchlist, examples, info, onClose, onDone }) {
  const calibrated = info?.calibration?.mode === "cosine";
  const [name, setName] = useState(watchlist?.name ?? "");
  const [by, setBy] = useState((watchlist ? watchlist.min_probability !== null : calibrated) ? "probability" : "score");
  const [probability, setProbability] = useState(watchlist?.min_probability ?? 0.9);
  const [prior, setPrior] = useState(watchlist?.prior ?? info?.calibration?.prior ?? "");
  const [score, setScore] = useState(watchlist?.min_score ?? 0.7);
  const [cooldown, setCooldown] = useState(watchlist?.cooldown ?? 60);
  const [ends, setEnds] = useState(toLocalInput(watchlist?.expires_at));
  const { problem, busy, attempt, close } = useChange(onClose);
  const [old, setOld] = useState(null);
  const isTaken = old?.name === name;
  const save = async () => {
    const body = { ...examples, cooldown: Number(cooldown), filter: watchlist?.filter ?? {} };
    if (by === "probability") body.min_probability = Number(probability);
    else body.min_score = Number(score);
    if (prior) body.prior = Number(prior);
    if (fromLocalInput(ends)) body.expires_at = fromLocalInput(ends);
    // What was not shown is not replaced: another operator may have made or changed it since.
    const shown = watchlist ?? (isTaken ? old : null);
    const condition = shown ? { "If-Match": `"${shown.updated_at}"` } : { "If-None-Match": "*" };
    try {
      await call(path(name), { method: "PUT", json: body, condition });
    } catch (problem) {
      if (problem.status !== 412 || watchlist) throw problem;
      return setOld(await call(path(name)));
    }
    return onDone(name);
  };
  const field = (text, type, value, set, more) => html`
    <label>${text} <input type=${type} required=${set !== setEnds} value=${value} onInput=${(event) => set(event.target.value)} ...${more} ...${watchlist && { step: "any" }} /></label>`;
  return html`
    <${Dialog} title=${watchlist ? `Change ${watchlist.name}` : "Watch for this person"} onClose=${close}>
      <p>Each tracklet that is enrolled from now on is compared with the examples. One that passes the threshold raises an alert, a probable appearance.</p>
      <form onSubmit=${(event) => { event.preventDefault(); attempt(save); }}>
        ${!watchlist && field("Name", "text", name, setName, { maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", "aria-describedby": "watch-name" })}
        ${!watchlist && html`<p id="watch-name" class="quiet">Letters, digits, dots, underscores and hyphens. It is in every alert: name a case, not a person.</p>`}
        <label>Threshold by <select value=${by} onChange=${(event) => setBy(event.target.value)}>
          <option value="probability" disabled=${!calibrated}>probability${calibrated ? "" : " (needs a calibration)"}</option><option value="score">score</option></select></label>
        ${by === "probability"
          ? [field("Minimum probability", "number", probability, setProbability, { min: 0, max: 1, step: 0.01 }),
            field("Prior (share of new tracklets that show the person)", "number", prior, setPrior, { min: 0, max: 1, step: "any" })]
          : field("Minimum score", "number", score, setScore, { min: -1, max: 1, step: 0.01 })}
        ${field("Seconds between two alerts on one camera", "number", cooldown, setCooldown, { min: 0, max: 604800, step: 1 })}
        ${field("Ends (optional)", "datetime-local", ends, setEnds)}
        ${isTaken && html`<p class="note" role="alert">The watchlist <bdi>${name}</bdi> exists, with ${plural(old.examples.length, "example")} and ${plural(old.rejects.length, "reject")}. Choose another name, or replace them and its filter.</p>`}
        <${ProblemNote} problem=${problem} />
        <div class="actions">
          <button type="submit" class="primary" disabled=${busy || isTaken}>${watchlist ? "Save" : "Watch"}</button>
          <button type="button" disabled=${busy} onClick=${close}>Cancel</button>
          ${isTaken && html`<button type="submit" class="danger" disabled=${busy}>Replace it</button>`}
        </div>
      </form>
    </${Dialog}>`;
}

export function DeleteWatchlist({ watchlist, onClose, onDone }) {
  const { problem, busy, attempt, close } = useChange(onClose);
  const remove = async () => {
    await call(path(watchlist.name), { method: "DELETE" });
    onDone();
  };
  return html`
    <${Dialog} title="Delete this watchlist?" onClose=${close}>
      <p><bdi><strong>${watchlist.name}</strong></bdi> raises no more alerts, and its vectors are removed. Alerts that it raised stay until they expire.</p>
      <${ProblemNote} problem=${problem} />
      <div class="actions">
        <button type="button" class="danger" disabled=${busy} onClick=${() => attempt(remove)}>Delete it</button>
        <button type="button" disabled=${busy} onClick=${close}>Keep it</button>
      </div>
    </${Dialog}>`;
}
