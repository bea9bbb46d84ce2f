// The grid of pictures, for results and for records. One tile at a time is in the tab order; arrows move between tiles.

import { formatProbability, formatScore, formatMinute, formatTime } from "./format.js";
import { html, memo, useEffect, useRef, useState } from "./html.js";
import { Picture, Sentinel } from "./parts.js";

const FIRST = 120;
const STEP = 36; // more tiles at once would take longer than a frame
export const VERDICTS = { same: "\u2713", different: "\u2717", unsure: "?" };
export const VERDICT_KEYS = { 1: "same", 2: "different", 3: "unsure" };

/**
 * Args: `items` (records or results), `verdicts` (map of id to verdict, or `null` without verdicts), `unconfirmed` (map of id to
 * how many operators gave a verdict that does not count yet), `current` (id), and what
 * happens: `onCurrent(id)`, `onVerdict(id, verdict)`, `onOpen(id)`,
 * `onSimilar(id)`, `onEnd()` near the end of the items.
 */
export function Grid({ items, label, verdicts, unconfirmed, current, onCurrent, onVerdict, onOpen, onSimilar, onEnd }) {
  const [shown, setShown] = useState(FIRST);
  const list = useRef(null);
  const stop = items.some((item) => item.id === current) ? current : items[0]?.id;
  const at = items.findIndex((item) => item.id === stop);
  const visible = items.slice(0, Math.max(shown, at + 2)); // a verdict moves on to the tile after the current one
  const last = useRef(""); // the verdict of the last key, until the focus moves
  const handlers = useRef({});
  handlers.current = { onCurrent, onVerdict, onOpen, onSimilar };
  const stable = useRef({
    current: (id) => {
      last.current = "";
      handlers.current.onCurrent(id);
    },
    verdict: (id, verdict) => handlers.current.onVerdict?.(id, verdict),
    open: (id) => handlers.current.onOpen(id),
    similar: (id) => handlers.current.onSimilar(id),
  });

  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const tiles = [...list.current.children];
    const tile = event.target.closest("[data-id]");
    const index = tile ? tiles.indexOf(tile) : -1;
    if (index < 0) return;
    const to = targetOf(event.key, tiles, index);
    if (to !== null) {
      event.preventDefault();
      tiles[to].querySelector("[tabindex]").focus();
      if (to === tiles.length - 1) setShown((now) => now + STEP);
      return;
    }
    const { id } = tile.dataset;
    const verdict = VERDICT_KEYS[event.key];
    if (verdict && verdicts) {
      event.preventDefault();
      const name = `${id} ${verdict}`;
      // A key that is held judges one tile. At the last one, a second press is meant for the next one, which is not there.
      if (event.repeat || (last.current === name && verdicts.get(id) === verdict)) return;
      last.current = name;
      onVerdict(id, verdict);
    } else if (event.key === "Enter" && !event.target.closest("button, a")) {
      event.preventDefault();
      onOpen(id);
    } else if (event.key === "s") {
      event.preventDefault();
      onSimilar(id);
    }
  };
  const reachEnd = () => {
    if (visible.length < items.length) setShown((now) => Math.max(now, visible.length) + STEP);
    else onEnd?.();
  };
  return html`
    <ul class=${verdicts ? "grid" : "grid records"} role="list" aria-label=${label} ref=${list} onKeyDown=${press}>
      ${visible.map((item) => html`<${Tile} key=${item.id} item=${item} isStop=${item.id === stop} calls=${stable.current}
        judged=${verdicts ? verdicts.get(item.id) || "" : null} part=${unconfirmed?.get(item.id) ?? ""} />`)}
    </ul>
    <${Sentinel} onReached=${reachEnd} key=${visible.length} />`;
}

function targetOf(key, tiles, index) {
  const last = tiles.length - 1;
  const top = tiles[index].offsetTop;
  const columns = tiles.filter((tile) => tile.offsetTop === tiles[0].offsetTop).length;
  switch (key) {
    case "ArrowRight": return Math.min(index + 1, last);
    case "ArrowLeft": return Math.max(index - 1, 0);
    case "ArrowDown": return tiles[last].offsetTop === top ? index : Math.min(index + columns, last);
    case "ArrowUp": return index - columns >= 0 ? index - columns : index;
    case "Home": return 0;
    case "End": return last;
    default: return null;
  }
}

/** Move to the tile of an id; return whether there is one. */
export function focusTile(id) {
  const tile = document.querySelector(`.grid [data-id="${CSS.escape(id)}"]`);
  if (!tile) return false;
  tile.scrollIntoView({ block: "nearest" });
  tile.querySelector("[tabindex]").focus({ preventScroll: true });
  return true;
}

const Tile = memo(({ item, isStop, judged, part, calls }) => {
  const [playing, setPlaying] = useState(false);
  const camera = item.camera_id ?? "no camera";
  const words = [
    item.rank && `Result ${item.rank}`,
    item.probability !== undefined && `probability ${formatProbability(item.probability)}`,
    item.score !== undefined && `score ${formatScore(item.score)}`,
    camera, formatTime(item.start_time), item.id,
    judged && `verdict: ${judged}${part && `, ${part} operators, does not count yet`}`,
  ].filter(Boolean).join(", ");
  return html`
    <li class=${`tile ${judged || ""} ${isStop ? "stop" : ""}`} data-id=${item.id}
      onMouseEnter=${() => setPlaying(true)} onMouseLeave=${() => setPlaying(false)}>
      <div class="face" role="group" tabindex=${isStop ? 0 : -1} aria-label=${words}
        onFocus=${() => { calls.current(item.id); setPlaying(true); }} onBlur=${() => setPlaying(false)}
        onDblClick=${() => calls.open(item.id)} onClick=${(event) => event.pointerType === "touch" && calls.open(item.id)}>
        ${item.thumbnail_url
          ? html`<${Picture} id=${item.id} frames=${item.thumbnails ?? 1} playing=${playing} />`
          : html`<span class="frame" data-state="none"><span class="no-picture">no picture</span></span>`}
        ${judged && html`<span class="sign" aria-hidden="true">${VERDICTS[judged]}${part && html` <small>${part}</small>`}</span>`}
        <span class="line first">
          ${item.score === undefined ? null : item.probability === undefined
            ? html`<strong>${formatScore(item.score)}</strong>`
            : html`<strong>${formatProbability(item.probability)}</strong><span class="quiet" title="Score">${formatScore(item.score)}</span>`}
        </span>
        <bdi class="line" title=${camera}>${camera}</bdi>
        <span class="line quiet" title=${formatTime(item.start_time)}>${formatMinute(item.start_time)}</span>
        <bdi class="line quiet id" title=${item.id}>${item.id}</bdi>
      </div>
      <div class="tools">
        ${judged !== null && Object.entries(VERDICTS).map(([name, sign], index) => html`
          <button type="button" key=${name} class=${name} tabindex=${isStop ? 0 : -1} aria-pressed=${judged === name}
            aria-label=${name} title=${`${name} (${index + 1})`} onClick=${() => calls.verdict(item.id, name)}>${sign}</button>`)}
        <button type="button" tabindex=${isStop ? 0 : -1} aria-label="Find similar" title="Find similar (s)" onClick=${() => calls.similar(item.id)}>${"\u2248"}</button>
        <button type="button" class="open" tabindex=${isStop ? 0 : -1} aria-label="Open the record" title="Open the record (Enter)" onClick=${() => calls.open(item.id)}>${"\u2026"}</button>
      </div>
    </li>`;
});

/** Whether anything of a list of items has a kept picture. */
const anyPicture = (items) => items.some((item) => item.thumbnail_url);

/** Say how pictures are kept, if none of these items has one. */
export function NoPictures({ items, info }) {
  const [open, setOpen] = useState(true);
  useEffect(() => setOpen(true), [items]);
  if (!open || !items.length || anyPicture(items)) return null;
  if (info?.model === null) return html`<p class="note"><strong>No record has a picture.</strong> Vectors come without pictures: use camera, time, id and metadata.</p>`;
  return html`
    <div class="note">
      <p><strong>No record has a picture.</strong> ${info?.gallery.thumbnails
        ? "The service keeps pictures of new records; these were enrolled before, or from vectors."
        : html`The service keeps none by default. Set <code>NOT3D_THUMBNAILS=true</code> and enrol again: then it stores a small picture of each person,
          which is personal data and is erased with its record. Without pictures, use camera, time and id.`}</p>
    </div>`;
}
