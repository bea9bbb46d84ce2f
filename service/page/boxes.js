// Draw boxes on a full frame: with a mouse, a finger, or the keyboard.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { Dialog, refocus } from "./parts.js";

const MIN_SIDE = 8; // pixels; the service refuses smaller boxes
const STEP = 0.01; // of the picture, for one press of an arrow key

const limit = (value, low, high) => Math.min(Math.max(value, low), high);

function normalise(box, item) {
  const width = limit(Math.round(box.width), MIN_SIDE, item.width);
  const height = limit(Math.round(box.height), MIN_SIDE, item.height);
  return { x: limit(Math.round(box.x), 0, item.width - width), y: limit(Math.round(box.y), 0, item.height - height), width, height };
}

/** Close a dialog on Back, which takes its picture away, and focus its button or the query afterwards. */
function useLeaving(onClose) {
  useLayoutEffect(() => { // before Back can come
    addEventListener("popstate", onClose);
    return () => {
      removeEventListener("popstate", onClose);
      refocus(".tray .items .plain", ".tray .id-form input");
    };
  }, []);
}

/**
 * The dialog. `onDone(boxes)` gets the boxes in pixels of the picture; `onWhole()` means that the picture is a crop already.
 */
export function BoxEditor({ item, onDone, onWhole, onClose }) {
  const [boxes, setBoxes] = useState(item.boxes);
  const [draft, setDraft] = useState(null);
  const [current, setCurrent] = useState(-1);
  const [message, setMessage] = useState("");
  const stage = useRef(null);
  const drag = useRef(null);
  const elements = useRef([]);
  const adder = useRef(null);
  useLeaving(onClose);

  useEffect(() => {
    if (current >= 0) elements.current[current]?.focus();
  }, [current, boxes.length]);

  const point = (event) => {
    const area = stage.current.getBoundingClientRect();
    return {
      x: limit(((event.clientX - area.left) / area.width) * item.width, 0, item.width),
      y: limit(((event.clientY - area.top) / area.height) * item.height, 0, item.height),
    };
  };
  const replace = (index, box) => setBoxes(boxes.map((each, at) => (at === index ? normalise(box, item) : each)));
  const remove = (index) => {
    setBoxes(boxes.filter((_, at) => at !== index));
    setCurrent(Math.min(index, boxes.length - 2));
    setMessage(`Box ${index + 1} removed.`);
    if (boxes.length === 1) adder.current.focus();
  };
  const add = (box) => {
    setBoxes([...boxes, normalise(box, item)]);
    setCurrent(boxes.length);
    setMessage(`Box ${boxes.length + 1} added.`);
  };

  const start = (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    stage.current.setPointerCapture(event.pointerId);
    const at = point(event);
    const name = event.target.dataset.box;
    if (name !== undefined) {
      const index = Number(name);
      setCurrent(index);
      elements.current[index]?.focus();
      drag.current = { index, at, box: boxes[index], corner: event.target.dataset.corner === "1" };
    } else {
      drag.current = { at };
    }
  };
  const move = (event) => {
    const held = drag.current;
    if (!held) return;
    const now = point(event);
    if (held.index === undefined) {
      setDraft({
        x: Math.min(held.at.x, now.x), y: Math.min(held.at.y, now.y),
        width: Math.abs(now.x - held.at.x), height: Math.abs(now.y - held.at.y),
      });
    } else {
      const dx = now.x - held.at.x;
      const dy = now.y - held.at.y;
      const box = held.box;
      replace(held.index, held.corner
        ? { ...box, width: Math.min(box.width + dx, item.width - box.x), height: Math.min(box.height + dy, item.height - box.y) }
        : { ...box, x: box.x + dx, y: box.y + dy });
    }
  };
  const end = () => {
    if (draft && draft.width >= MIN_SIDE && draft.height >= MIN_SIDE) add(draft);
    else if (draft) setMessage(`The box is too small: draw at least ${MIN_SIDE} by ${MIN_SIDE} pixels.`);
    setDraft(null);
    drag.current = null;
  };

  const press = (event, index) => {
    const box = boxes[index];
    const dx = Math.max(1, Math.round(item.width * STEP));
    const dy = Math.max(1, Math.round(item.height * STEP));
    const moves = { ArrowLeft: [-dx, 0], ArrowRight: [dx, 0], ArrowUp: [0, -dy], ArrowDown: [0, dy] };
    if (event.key in moves) {
      event.preventDefault();
      const [x, y] = moves[event.key];
      replace(index, event.shiftKey
        ? { ...box, width: Math.min(box.width + x, item.width - box.x), height: Math.min(box.height + y, item.height - box.y) }
        : { ...box, x: box.x + x, y: box.y + y });
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove(index);
    }
  };
  const addMiddle = () => {
    const height = item.height * 0.6;
    const width = Math.min(height / 2.5, item.width * 0.5);
    add({ x: (item.width - width) / 2, y: (item.height - height) / 2, width, height });
  };

  return html`
    <${Dialog} title="Where is the person?" onClose=${onClose} wide>
      <p id="box-help">Draw a box around the person. If the picture shows the person more than once, draw several boxes: all must
        show the same person. By keyboard: add a box, move it with the arrow keys, change its size with Shift and the arrow keys.</p>
      <div class="stage" ref=${stage} onPointerDown=${start} onPointerMove=${move} onPointerUp=${end} onPointerCancel=${end}>
        <img src=${item.url} alt="The picture ${item.name}" draggable=${false} />
        ${boxes.map((box, index) => html`
          <${Placed} key=${index} box=${box} item=${item} class=${index === current ? "box current" : "box"}>
            <button type="button" data-box=${index} ref=${(element) => { elements.current[index] = element; }}
              aria-describedby="box-help" onFocus=${() => setCurrent(index)} onKeyDown=${(event) => press(event, index)}
              aria-label=${`Box ${index + 1} of ${boxes.length}: ${box.width} by ${box.height} pixels at ${box.x}, ${box.y}`}></button>
            <span class="corner" data-box=${index} data-corner="1" aria-hidden="true"></span>
          </${Placed}>`)}
        ${draft && html`<${Placed} box=${draft} item=${item} class="box draft" />`}
      </div>
      <p role="status" class="quiet">${message || (boxes.length ? `${boxes.length} drawn.` : "No box yet.")}</p>
      <div class="actions">
        <button type="button" class="primary" disabled=${!boxes.length} onClick=${() => onDone(boxes)}>Search with ${boxes.length > 1 ? `${boxes.length} boxes` : "this box"}</button>
        <button type="button" ref=${adder} onClick=${addMiddle}>Add a box</button>
        <button type="button" disabled=${current < 0 || !boxes.length} onClick=${() => remove(current)}>Remove the box</button>
        <button type="button" class="plain" onClick=${onWhole}>The picture is a crop of one person</button>
      </div>
    </${Dialog}>`;
}

/** An element at the place of a box, in percent of the picture. */
function Placed({ box, item, class: name, children }) {
  const element = useRef(null);
  useLayoutEffect(() => {
    const { style } = element.current;
    style.left = `${(box.x / item.width) * 100}%`;
    style.top = `${(box.y / item.height) * 100}%`;
    style.width = `${(box.width / item.width) * 100}%`;
    style.height = `${(box.height / item.height) * 100}%`;
  });
  return html`<div ref=${element} class=${name}>${children}</div>`;
}

/** Choose frames of a video: play or step to the moment, and take the frame. */
export function FrameChooser({ item, onFrame, onClose }) {
  const video = useRef(null);
  const [state, setState] = useState("loading");
  const [time, setTime] = useState(0);
  useLeaving(onClose);
  const step = (seconds) => {
    video.current.pause();
    video.current.currentTime = limit(video.current.currentTime + seconds, 0, video.current.duration || 0);
  };
  const press = (event) => {
    if (event.key === "," || event.key === ".") step(event.key === "," ? -0.1 : 0.1);
  };
  return html`
    <${Dialog} title="Choose a frame" onClose=${onClose} wide>
      ${state === "failed"
        ? html`<p>This browser cannot play ${item.name}. The service may still read it: search with the whole video.</p>`
        : html`<p>Go to a moment that shows the person, and take the frame. Keys: comma and full stop step by 0.1 s.</p>`}
      <video ref=${video} src=${item.url} controls muted playsinline preload="auto" onKeyDown=${press}
        onLoadedData=${() => setState("ready")} onError=${() => setState("failed")}
        onTimeUpdate=${() => setTime(video.current.currentTime)}></video>
      <div class="actions" onKeyDown=${press}>
        <button type="button" class="primary" disabled=${state !== "ready"} onClick=${() => onFrame(video.current)}>Take the frame at ${time.toFixed(2)} s</button>
        <button type="button" disabled=${state !== "ready"} onClick=${() => step(-0.1)}>Back 0.1 s</button>
        <button type="button" disabled=${state !== "ready"} onClick=${() => step(0.1)}>On 0.1 s</button>
      </div>
    </${Dialog}>`;
}
