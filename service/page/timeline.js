// Lanes of cameras over time: one dot for each result, and the query's own place.

import { formatShortTime, plural, timeOf, timeZone } from "./format.js";
import { html, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { PathLine } from "./path.js";

const STEPS = [1, 5, 15, 30, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200, 86_400, 172_800, 604_800, 2_592_000, 7_776_000, 31_536_000];
const MAX_DOTS = 1000;
const NO_STEPS = [];

function ticksOf(low, high) {
  const seconds = (high - low) / 1000;
  const step = (STEPS.find((each) => seconds / each <= 7) || STEPS.at(-1)) * 1000;
  const offset = new Date(low).getTimezoneOffset() * 60_000;
  const ticks = [];
  for (let time = Math.ceil((low - offset) / step) * step + offset; time <= high; time += step) ticks.push(time);
  const withDate = seconds > 86_400;
  const format = new Intl.DateTimeFormat(undefined, withDate
    ? { month: "short", day: "numeric", ...(step < 86_400_000 ? { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } : {}) }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(step < 60_000 ? { second: "2-digit" } : {}) });
  return ticks.map((time) => ({ time, text: format.format(time) }));
}

/**
 * `hits` are results, `queries` records that are searched with, `verdicts` a map from id to verdict.
 * `steps` are the records of a probable path; `onPick(id)` moves to a result.
 */
export function Timeline({ hits, queries, steps = NO_STEPS, verdicts, current, onPick }) {
  const plot = useMemo(() => {
    const timed = hits.filter((hit) => timeOf(hit) !== null).slice(0, MAX_DOTS);
    const marks = queries.filter((record) => timeOf(record) !== null);
    const times = [...timed, ...marks, ...steps].map(timeOf);
    if (!times.length) return null;
    let low = Math.min(...times);
    let high = Math.max(...times);
    const margin = Math.max((high - low) * 0.03, 500);
    low -= margin;
    high += margin;
    const counts = new Map();
    for (const each of [...timed, ...marks, ...steps]) counts.set(each.camera_id, (counts.get(each.camera_id) || 0) + 1);
    const lanes = [...counts.keys()].sort((a, b) => (a === null) - (b === null) || String(a).localeCompare(String(b), undefined, { numeric: true }));
    const scores = timed.map((hit) => hit.score);
    const worst = Math.min(...scores);
    const best = Math.max(...scores);
    const likeliest = Math.max(...timed.map((hit) => hit.probability ?? 0));
    const weight = (hit) => (likeliest ? Math.sqrt(hit.probability / likeliest) : best > worst ? (hit.score - worst) / (best - worst) : 1);
    return { timed, marks, low, high, lanes, weight, ticks: ticksOf(low, high) };
  }, [hits, queries, steps]);
  const [focused, setFocused] = useState(null);
  const element = useRef(null);
  if (!plot) return hits.length ? html`<p class="quiet timeline-note">No result has a time, so there is no timeline. Enrol with <code>start_time</code>.</p>` : null;

  const { timed, marks, low, high, lanes, weight, ticks } = plot;
  const share = (time) => ((time - low) / (high - low)) * 100;
  const order = [...timed].sort((a, b) => timeOf(a) - timeOf(b));
  const stop = order.some((hit) => hit.id === focused) ? focused : order.some((hit) => hit.id === current) ? current : order[0]?.id;
  const press = (event) => {
    const at = order.findIndex((hit) => hit.id === stop);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined || !order[to]) return;
    event.preventDefault();
    event.stopPropagation();
    setFocused(order[to].id);
    element.current.querySelector(`[data-dot="${CSS.escape(order[to].id)}"]`)?.focus();
  };
  const untimed = hits.filter((hit) => timeOf(hit) === null).length;
  return html`
    <section class="timeline" aria-label="Timeline by camera" ref=${element} onKeyDown=${press}>
      <div class="lanes">
        <${PathLine} steps=${steps} lanes=${lanes} share=${share} />
        ${lanes.map((camera) => html`
          <div class="lane" key=${camera ?? ""}>
            <span class="lane-name" title=${camera ?? ""}><bdi>${camera ?? "no camera"}</bdi></span>
            <div class="track">
              ${ticks.map((tick) => html`<${At} key=${tick.time} x=${share(tick.time)} class="tick" />`)}
              ${marks.filter((record) => record.camera_id === camera).map((record) => html`
                <${At} key=${`query ${record.id}`} x=${share(timeOf(record))} class="mark"><span role="img" aria-label=${`The query, ${formatShortTime(record.start_time)}`} title=${`Query: ${record.id}`}></span></${At}>`)}
              ${timed.filter((hit) => hit.camera_id === camera).map((hit) => html`
                <${At} key=${hit.id} x=${share(timeOf(hit))} class="place">
                  <button type="button" data-dot=${hit.id} tabindex=${hit.id === stop ? 0 : -1}
                    class=${`dot size-${Math.round(weight(hit) * 4)} ${verdicts.get(hit.id) || ""} ${hit.id === current ? "current" : ""}`}
                    aria-label=${`Result ${hit.rank}, ${camera ?? "no camera"}, ${formatShortTime(hit.start_time)}${verdicts.get(hit.id) ? `, ${verdicts.get(hit.id)}` : ""}`}
                    title=${`${hit.rank}. ${formatShortTime(hit.start_time)}`}
                    onFocus=${() => setFocused(hit.id)} onClick=${() => onPick(hit.id)}></button>
                </${At}>`)}
            </div>
          </div>`)}
      </div>
      <div class="axis"><span class="lane-name quiet" title=${`Times of ${timeZone}`}>${timeZone.split("/").at(-1).replace(/_/g, " ")}</span><div class="track" aria-hidden="true">
        ${ticks.map((tick) => html`<${At} key=${tick.time} x=${share(tick.time)} class="tick-text">${tick.text}</${At}>`)}
      </div></div>
      ${untimed > 0 && html`<p class="quiet timeline-note">${plural(untimed, "result")} without a time ${untimed === 1 ? "is" : "are"} not on the timeline.</p>`}
    </section>`;
}

function At({ x, class: name, children }) {
  const element = useRef(null);
  useLayoutEffect(() => { element.current.style.left = `${x}%`; }, [x]);
  return html`<span ref=${element} class=${name}>${children}</span>`;
}
