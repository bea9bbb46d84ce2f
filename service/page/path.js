// The probable path of one person: records linked in time order, as a line over the lanes and as a list.

import { call, recordPath } from "./api.js";
import { formatProbability, formatScore, formatShortTime, plural } from "./format.js";
import { html, useEffect, useState } from "./html.js";
import { ProblemNote } from "./parts.js";
import { getPurpose } from "./purpose.js";

const LANE = 22; // height of a lane in pixels, as in page.css
const PAUSE = 200; // milliseconds

/** Return what the service says about the path of a record: `{status, steps, problem}`. Without an id the status is `none`. */
export function usePath(id, min) {
  const [path, setPath] = useState({ status: "none", steps: [] });
  useEffect(() => {
    if (!id) {
      setPath({ status: "none", steps: [] });
      return undefined;
    }
    const controller = new AbortController();
    setPath({ status: "loading", steps: [] });
    const query = { min_score: min, purpose: getPurpose() || null };
    // A path takes many searches: while the threshold is being moved, wait until it stays.
    const timer = setTimeout(() => call(`${recordPath(id)}/track`, { query, signal: controller.signal }).then(
      (answer) => setPath({ status: "done", ...answer }),
      (problem) => problem.name !== "AbortError" && setPath({ status: "failed", steps: [], problem }),
    ), PAUSE);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [id, min]);
  return path;
}

const atStart = (step) => Date.parse(step.start_time);
const atEnd = (step) => Date.parse(step.end_time);

/** A line over the lanes: thick while the person was seen, dashed over gaps. `share` gives the place of a time in percent. */
export function PathLine({ steps, lanes, share }) {
  if (!steps.length) return null;
  const row = (step) => lanes.indexOf(step.camera_id) + 0.5;
  const gaps = steps.slice(1).map((step, at) => [steps[at], step]);
  return html`
    <svg class="path-line" aria-hidden="true" height=${lanes.length * LANE} viewBox=${`0 0 100 ${lanes.length}`} preserveAspectRatio="none">
      ${gaps.map(([one, other]) => html`<line key=${`gap ${other.id}`} class="gap" vector-effect="non-scaling-stroke"
        x1=${share(atEnd(one))} y1=${row(one)} x2=${share(atStart(other))} y2=${row(other)} />`)}
      ${steps.map((step) => html`<line key=${step.id} class="seen" vector-effect="non-scaling-stroke"
        x1=${share(atStart(step))} y1=${row(step)} x2=${share(atEnd(step))} y2=${row(step)} />`)}
    </svg>`;
}

function gapText(seconds) {
  if (seconds === null) return "";
  if (seconds < 0) return ", at the same time as the one before";
  if (seconds < 120) return `, ${Math.round(seconds)} s after the one before`;
  return seconds < 7200 ? `, ${Math.round(seconds / 60)} min after the one before` : `, ${(seconds / 3600).toFixed(1)} h after the one before`;
}

const linkText = (step) =>
  step.linked_to === null ? "the path begins here"
    : step.probability === undefined ? `score ${formatScore(step.score)}` : `probability ${formatProbability(step.probability)}`;

/** The steps as a list, for everyone who cannot see the line, and to open them. */
export function PathList({ path, onOpen, onClose }) {
  if (path.status === "none") return null;
  return html`
    <section class="path" aria-label="Probable path">
      <div class="dialog-head">
        <h2>Probable path</h2>
        <button type="button" class="icon" aria-label="Close the probable path" onClick=${onClose}>${"\u00d7"}</button>
      </div>
      ${path.status === "loading" && html`<p class="quiet" role="status">Linking records.</p>`}
      ${path.status === "failed" && (path.problem.kind === "not-calibrated"
        ? html`<p class="note">Without a calibration, a path needs a threshold: set one above the results.</p>` : html`<${ProblemNote} problem=${path.problem} />`)}
      ${path.status === "done" && html`
        <p class="quiet" role="status">${plural(path.steps.length, "probable appearance")} in time order, not a path taken. One wrong link brings more wrong ones: compare the pictures.${path.complete ? "" : " There are more links than are shown."}</p>
        <ol class="steps">
          ${path.steps.map((step) => html`
            <li key=${step.id}><button type="button" class="plain" onClick=${() => onOpen(step.id)}><bdi title=${step.camera_id}>${step.camera_id ?? "no camera"}</bdi>, ${formatShortTime(step.start_time)}</button>
              <span class="quiet">${linkText(step)}${gapText(step.gap_seconds)}</span></li>`)}
        </ol>`}
    </section>`;
}
