// The query tray: what is searched with, and the verdicts that the next search uses.

import { call, recordPath } from "./api.js";
import { BoxEditor, FrameChooser } from "./boxes.js";
import { formatShortTime, plural } from "./format.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { Picture, refocus } from "./parts.js";
import { filesOf, findObstacle, needsBox, readFile, readVideoFrame, release } from "./uploads.js";

const ACCEPT = "image/jpeg,image/png,image/webp,image/bmp,video/mp4,video/quicktime,video/x-matroska,video/x-msvideo,video/mp2t,.mkv,.ts";

const NOTHING = [];
const SHOWN = 30; // verdicts of one kind; a case may have thousands
const MAX_ERRORS = 3; // a folder may hold thousands of other files
const AFTER_REMOVAL = [".tray .items .icon", ".tray .small-items .icon", ".tray .id-form input"];

/** Read records that are shown, of which some are `known`; a map of id to record, `null` for a missing one. */
export function useRecords(ids, known) {
  const [records, setRecords] = useState(() => new Map());
  useEffect(() => {
    for (const id of ids) {
      if (records.has(id)) continue;
      const found = known.find((each) => each.id === id);
      if (found) {
        records.set(id, found);
      } else {
        records.set(id, undefined);
        call(recordPath(id)).then(
          (record) => setRecords((now) => new Map(now).set(id, record)),
          (problem) => setRecords((now) => new Map(now).set(id, problem.status === 404 || problem.status === 400 ? null : undefined)),
        );
      }
    }
    setRecords((now) => new Map(now));
  }, [ids.join("\n")]);
  return records;
}

/**
 * Args: `state` (of the address), `uploads` (items), `records` (map of id to record, `null` if it is missing), `hits` (results), `verdicts` (map of
 * id to verdict), `embeds` (the service has a model, so it can be asked with pictures), `isCase` (the verdicts are kept in a case), and what happens.
 */
export function Tray({ state, uploads, records, hits, limits, embeds, verdicts, judge, isCase, onUploads, onState, onSearchAgain, onOpen, children }) {
  const [editing, setEditing] = useState(null);
  const [errors, setErrors] = useState([]);
  const [over, setOver] = useState(false);
  const [id, setId] = useState("");
  const picker = useRef(null);
  const latest = useRef(null);
  latest.current = uploads;
  const addLatest = useRef(null); // for listeners that are added once

  const add = async (given) => {
    const files = await Promise.resolve(given).catch(() => NOTHING); // a folder that cannot be read
    const wrong = files === NOTHING ? ["The folder cannot be read."] : [];
    const added = [];
    const room = limits ? limits.max_request_bytes - latest.current.reduce((sum, item) => sum + item.blob.size, 0) : Infinity;
    let size = 0;
    for (const file of files) {
      try {
        if (limits && size + file.size > room) throw new Error(`${file.name}: one search may send ${Math.floor(limits.max_request_bytes / 2 ** 20)} MiB. Choose fewer or smaller files.`);
        added.push(await readFile(file, limits));
        size += file.size;
      } catch (error) {
        wrong.push(error.message);
      }
    }
    setErrors(wrong.length > MAX_ERRORS ? [...wrong.slice(0, MAX_ERRORS), `${plural(wrong.length - MAX_ERRORS, "more file")} cannot be used.`] : wrong);
    if (!added.length) return;
    onUploads([...latest.current, ...added]);
    const first = added.find(needsBox);
    if (first) setEditing({ kind: "boxes", item: first });
  };

  addLatest.current = add;
  useEffect(() => {
    if (!embeds) return undefined;
    const paste = (event) => {
      const files = [...(event.clipboardData?.files || [])];
      if (!files.length || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      addLatest.current(files);
    };
    const drag = (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      setOver(event.type !== "drop" && event.type !== "dragleave");
      if (event.type === "drop") addLatest.current(filesOf(event.dataTransfer));
      if (event.type === "dragleave" && event.relatedTarget) setOver(true);
    };
    document.addEventListener("paste", paste);
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) document.addEventListener(name, drag);
    return () => {
      document.removeEventListener("paste", paste);
      for (const name of ["dragenter", "dragover", "dragleave", "drop"]) document.removeEventListener(name, drag);
    };
  }, [embeds]);

  const change = (item, fields) => onUploads(latest.current.map((each) => (each.key === item.key ? { ...each, ...fields } : each)));
  const remove = (item) => {
    onUploads(latest.current.filter((each) => each.key !== item.key));
    refocus(...AFTER_REMOVAL);
  };
  const finish = (item, fields) => {
    change(item, fields);
    const next = latest.current.find((each) => each.key !== item.key && needsBox(each));
    setEditing(next ? { kind: "boxes", item: next } : null);
  };
  const takeFrame = async (item, video) => {
    const frame = await readVideoFrame(video, item.name);
    onUploads([...latest.current.filter((each) => each.key !== item.key), frame]);
    release(item);
    setEditing(needsBox(frame) ? { kind: "boxes", item: frame } : null);
  };
  const submitId = (event) => {
    event.preventDefault();
    const name = id.trim();
    if (!name) return;
    setId("");
    onState({ like: [...new Set([...state.like, name])] });
  };
  const without = (field, name) => {
    onState({ [field]: state[field].filter((each) => each !== name) });
    refocus(...AFTER_REMOVAL);
  };
  const takeBack = (name, verdict) => {
    judge(name, verdict);
    refocus(...AFTER_REMOVAL);
  };
  const obstacle = findObstacle(uploads);
  const given = (verdict) => [...verdicts].filter(([, each]) => each === verdict).map(([name]) => name);
  const pending = given("same").length + given("different").length;
  const empty = !uploads.length && !state.like.length;

  return html`
    <section class=${over ? "tray over" : "tray"} aria-label="Query">
      <h2>Query</h2>
      ${empty && html`<p class="quiet">${embeds ? "Drop or paste a picture of a person, several crops of the same person, or a short video."
        : "Search with records: by their id, or with Find similar on any record. This service has no model, so it cannot search with pictures."}</p>`}
      ${(uploads.length > 0 || state.like.length > 0) && html`
        <ul class="items" role="list">
          ${uploads.map((item) => html`<${UploadItem} key=${item.key} item=${item} onRemove=${() => remove(item)}
            onBoxes=${() => setEditing({ kind: "boxes", item })} onFrames=${() => setEditing({ kind: "frames", item })} />`)}
          ${state.like.map((name) => html`<${RecordItem} key=${name} id=${name} record=${records.get(name)} onOpen=${onOpen} onRemove=${() => without("like", name)} />`)}
        </ul>`}
      ${state.upload && !uploads.length && html`
        <p class="note">This search began with a picture. Pictures are never part of the address: add it again.</p>`}
      ${errors.map((text) => html`<p class="note error" role="alert" key=${text}>${text}</p>`)}
      ${obstacle && html`<p class="note" role="status">${obstacle}</p>`}
      ${embeds && html`<div class="actions">
        <button type="button" class=${empty ? "primary" : ""} onClick=${() => picker.current.click()}>Add a picture or video</button>
        <input type="file" class="hidden" ref=${picker} accept=${ACCEPT} multiple aria-label="Picture or video" tabindex="-1"
          onChange=${(event) => { add([...event.target.files]); event.target.value = ""; }} />
      </div>`}
      <form class="id-form" onSubmit=${submitId}>
        <label class="grow">Id of a record <input type="text" value=${id} onInput=${(event) => setId(event.target.value)} autocomplete="off" spellcheck=${false} dir="auto" /></label>
        <button type="submit">${empty ? "Search" : "Add"}</button>
      </form>

      ${(verdicts.size > 0 || state.unlike.length > 0) && html`
        <h2>Verdicts</h2>
        <${Verdicts} name="Same person" field="same" ids=${given("same")} hits=${hits} onRemove=${(name) => takeBack(name, "same")} onOpen=${onOpen} />
        <${Verdicts} name="Another person" field="different" ids=${given("different")} hits=${hits} onRemove=${(name) => takeBack(name, "different")} onOpen=${onOpen} />
        <${Verdicts} name="Rejected in this search" field="unlike" ids=${state.unlike} hits=${hits} onRemove=${(name) => without("unlike", name)} onOpen=${onOpen} />
        <${Verdicts} name="Unsure" field="unsure" ids=${given("unsure")} hits=${hits} onRemove=${(name) => takeBack(name, "unsure")} onOpen=${onOpen} />
        ${pending > 0 && html`
          <button type="button" class="primary" onClick=${onSearchAgain} title="Search again (r)">Search again with ${isCase ? "the verdicts" : plural(pending, "verdict")}</button>`}`}
      ${children}
      ${editing?.kind === "boxes" && html`<${BoxEditor} key=${editing.item.key} item=${editing.item} onClose=${() => setEditing(null)}
        onDone=${(boxes) => finish(editing.item, { boxes, whole: false })} onWhole=${() => finish(editing.item, { boxes: [], whole: true })} />`}
      ${editing?.kind === "frames" && html`<${FrameChooser} item=${editing.item} onClose=${() => setEditing(null)} onFrame=${(video) => takeFrame(editing.item, video)} />`}
    </section>`;
}

function UploadItem({ item, onRemove, onBoxes, onFrames }) {
  const count = item.boxes.length;
  return html`
    <li class="item">
      ${item.kind === "video" ? html`<video src=${item.url} muted playsinline preload="metadata" aria-label=${item.name}></video>`
        : count ? html`<${Crop} item=${item} box=${item.boxes[0]} />` : html`<img src=${item.url} alt="" />`}
      <div>
        <bdi class="name" title=${item.name}>${item.name}</bdi>
        ${item.kind === "picture" && html`<span class="quiet">${count ? plural(count, "box").replace("boxs", "boxes") : item.whole ? "crop" : "no box yet"}</span>`}
        ${item.kind === "picture" && html`<button type="button" class="plain" onClick=${onBoxes}>${count ? "Change the box" : "Draw a box"}</button>`}
        ${item.kind === "video" && html`<button type="button" class="plain" onClick=${onFrames}>Choose a frame</button>`}
      </div>
      <button type="button" class="icon" aria-label=${`Remove ${item.name}`} onClick=${onRemove}>${"\u00d7"}</button>
    </li>`;
}

function Crop({ item, box }) {
  const canvas = useRef(null);
  useLayoutEffect(() => {
    const image = new Image();
    image.onload = () => {
      const element = canvas.current;
      if (!element) return;
      const scale = Math.min(1, 192 / Math.max(box.width, box.height));
      element.width = Math.max(1, box.width * scale);
      element.height = Math.max(1, box.height * scale);
      element.getContext("2d").drawImage(image, box.x, box.y, box.width, box.height, 0, 0, element.width, element.height);
    };
    image.src = item.url;
  }, [item.url, box]);
  return html`<canvas ref=${canvas} role="img" aria-label="The crop"></canvas>`;
}

function RecordItem({ id, record, onOpen, onRemove }) {
  return html`
    <li class="item">
      ${record?.thumbnail_url ? html`<${Picture} id=${id} />` : html`<span class="frame" data-state="none"></span>`}
      <div>
        <button type="button" class="plain name" title=${id} onClick=${() => onOpen(id)}><bdi>${id}</bdi></button>
        <span class="quiet" title=${record?.camera_id}>${record === null ? "not in the gallery" : record ? html`<bdi>${record.camera_id ?? "no camera"}</bdi>, ${formatShortTime(record.start_time)}` : ""}</span>
      </div>
      <button type="button" class="icon" aria-label=${`Remove ${id}`} onClick=${onRemove}>${"\u00d7"}</button>
    </li>`;
}

function Verdicts({ name, field, ids, hits, onRemove, onOpen }) {
  const [size, setSize] = useState(SHOWN);
  const shown = useMemo(() => ids.slice(-size), [ids.join("\n"), size]);
  const records = useRecords(shown, hits);
  if (!ids.length) return null;
  return html`
    <div class=${`verdicts ${field}`} role="group" aria-label=${name}>
      <span class="quiet">${name} (${ids.length})</span>
      ${shown.length < ids.length && html`<button type="button" class="plain" onClick=${() => setSize(size + SHOWN)}>Show ${Math.min(SHOWN, ids.length - size)} older</button>`}
      <ul class="small-items" role="list">
        ${shown.map((id) => html`
          <li key=${id}>
            <button type="button" class="face" aria-label=${`Open ${id}`} title=${id} onClick=${() => onOpen(id)}>
              ${records.get(id)?.thumbnail_url ? html`<${Picture} id=${id} />` : html`<bdi class="id">${id}</bdi>`}</button>
            <button type="button" class="icon" aria-label=${`Remove ${id} from: ${name}`} onClick=${() => onRemove(id)}>${"\u00d7"}</button>
          </li>`)}
      </ul>
    </div>`;
}
