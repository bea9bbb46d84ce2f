// Small parts that several views use.

import { loadPicture } from "./api.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./html.js";

let dialogCount = 0;

/** A modal dialog. The browser keeps the focus in it and gives it back; Escape closes it. Without `onClose` it stays. */
export function Dialog({ title, onClose, wide, class: name = wide ? "wide" : "", children }) {
  const element = useRef(null);
  const titleId = useMemo(() => `dialog-title-${dialogCount += 1}`, []);
  // A second Escape would close the dialog without an event that can be stopped.
  const keepOpen = (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    onClose?.();
  };
  useLayoutEffect(() => {
    const dialog = element.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      if (before?.isConnected) before.focus();
    };
  }, []);
  return html`
    <dialog ref=${element} class=${name} aria-labelledby=${titleId} onKeyDown=${keepOpen} onCancel=${(event) => { event.preventDefault(); onClose?.(); }}>
      <div class="dialog-head">
        <h2 id=${titleId}>${title}</h2>
        ${onClose && html`<button type="button" class="icon" aria-label="Close" onClick=${onClose}>${"\u00d7"}</button>`}
      </div>
      ${children}
    </dialog>`;
}

/** After a change that removes the focused element, focus the first one that a selector finds, in their order. */
export function refocus(...selectors) {
  requestAnimationFrame(() => {
    if (document.activeElement !== document.body) return;
    selectors.map((each) => document.querySelector(each)).find(Boolean)?.focus();
  });
}

// One observer for all pictures tells them in their order; those near the visible part are loaded.
const nearCalls = new WeakMap();
const nearObserver = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    nearObserver.unobserve(entry.target); // the browser looks at each observed element in every frame
    nearCalls.get(entry.target)?.();
  }
}, { rootMargin: "300px" });

const PICTURE_AGAIN = 5000; // ms until a picture that could not be loaded is asked for again

/** A kept picture of a record. With `frames` above 1 and `playing`, it shows them one after the other. */
export function Picture({ id, alt = "", frames = 1, playing = false, frame = null }) {
  const element = useRef(null);
  const [near, setNear] = useState(false);
  const [address, setAddress] = useState(undefined);
  const [shown, setShown] = useState(frame);
  const [tries, setTries] = useState(0);
  useEffect(() => {
    const target = element.current;
    nearCalls.set(target, () => setNear(true));
    nearObserver.observe(target);
    return () => nearObserver.unobserve(target);
  }, []);
  useEffect(() => setShown(frame), [frame, id]);
  useEffect(() => {
    if (!playing || frames < 2 || matchMedia("(prefers-reduced-motion: reduce)").matches) return undefined;
    const timer = setInterval(() => setShown((now) => ((now ?? -1) + 1) % frames), 350);
    return () => {
      clearInterval(timer);
      setShown(frame);
    };
  }, [playing, frames]);
  useEffect(() => {
    if (!near) return undefined;
    let wanted = true;
    let timer;
    loadPicture(id, shown).then((found) => {
      if (!wanted) return;
      setAddress(found);
      if (found === undefined) timer = setTimeout(() => setTries((now) => now + 1), PICTURE_AGAIN);
    });
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, [near, id, shown, tries]);
  return html`<span class="frame" ref=${element} data-state=${address === undefined ? "loading" : address ? "shown" : "none"}>
    ${address ? html`<img src=${address} alt=${alt} decoding="async" />` : html`<span class="no-picture">${address === null ? "no picture" : ""}</span>`}
  </span>`;
}

/** An error of the service, with its cure if it names one. */
export function ProblemNote({ problem, onRetry }) {
  if (!problem) return null;
  return html`
    <div class="note error" role="alert">
      <p><strong>${problem.title || "This did not work"}</strong></p>
      <p>${problem.message}</p>
      ${problem.requestId && html`<p class="quiet">Request <bdi>${problem.requestId}</bdi></p>`}
      ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
    </div>`;
}

/** A command that can be copied. */
export function Command({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return html`<span class="command"><code>${text}</code>
    ${navigator.clipboard && html`<button type="button" class="plain" onClick=${copy}>${copied ? "Copied" : "Copy"}</button>`}</span>`;
}

/** Call `onReached` when the element comes near the visible part of the page. */
export function Sentinel({ onReached }) {
  const element = useRef(null);
  const latest = useRef(onReached);
  latest.current = onReached;
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && latest.current(), { rootMargin: "600px" });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return html`<div ref=${element} class="sentinel" aria-hidden="true"></div>`;
}

/** A chip that opens a small panel, and with `onClear` a button that removes its filter. */
export function Chip({ name, value, active, onClear, children }) {
  const element = useRef(null);
  useEffect(() => {
    const close = (event) => {
      if (!element.current.open) return;
      if (event.type === "keydown" ? event.key === "Escape" : !element.current.contains(event.target)) {
        element.current.open = false;
        if (event.type === "keydown") element.current.querySelector("summary").focus();
      }
    };
    document.addEventListener("pointerdown", close);
    document.addEventListener("keydown", close);
    return () => {
      document.removeEventListener("pointerdown", close);
      document.removeEventListener("keydown", close);
    };
  }, []);
  const clear = () => {
    onClear();
    element.current.querySelector("summary").focus();
  };
  return html`
    <span class=${active ? "chip active" : "chip"}>
      <details ref=${element}>
        <summary><span class="quiet">${name}</span> <bdi>${value}</bdi></summary>
        <div class="panel">${children}</div>
      </details>
      ${active && html`<button type="button" class="icon" aria-label=${`Remove the filter ${name}`} onClick=${clear}>${"\u00d7"}</button>`}
    </span>`;
}

/** Facts as a list of names and values. Every value is shown as text; its direction is its own. */
export function Facts({ rows }) {
  return html`<dl class="facts">${rows.filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => html`
    <div key=${name}><dt><bdi>${name}</bdi></dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A metadata value as text; an address of a web page or recording as a link. */
export function Value({ value }) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  if (typeof value === "string" && /^https?:\/\/[^\s]+$/i.test(value)) {
    return html`<a href=${value} target="_blank" rel="noopener noreferrer"><bdi>${text}</bdi></a>`;
  }
  return html`<bdi>${text}</bdi>`;
}
