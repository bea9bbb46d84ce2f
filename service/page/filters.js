// Filters as chips. All are in the address, and all are applied by the service.

import { clocksChange, utcOffset } from "./address.js";
import { formatShortTime, fromLocalInput, plural, timeZone, toLocalInput } from "./format.js";
import { html, useEffect, useState } from "./html.js";
import { Chip, refocus } from "./parts.js";

const DAY = 86_400_000;

const midnight = (offset) => {
  const day = new Date();
  day.setHours(0, 0, 0, 0);
  day.setDate(day.getDate() + offset);
  return day.toISOString();
};
const RANGES = {
  Today: () => ({ after: midnight(0), before: "" }),
  Yesterday: () => ({ after: midnight(-1), before: midnight(0) }),
  "Last 24 hours": () => ({ after: new Date(Date.now() - DAY).toISOString(), before: "" }),
  "Last 7 days": () => ({ after: new Date(Date.now() - 7 * DAY).toISOString(), before: "" }),
};

/** Chips for the filters of a state; `onChange` gets the changed fields. A listing has one camera and no time of day. */
export function Filters({ state, cameras, isListing, queryCamera, onChange, children }) {
  return html`
    <div class="filters" role="group" aria-label="Filters">
      <${CameraChip} state=${state} cameras=${cameras} isSingle=${isListing} onChange=${onChange} />
      <${TimeChip} state=${state} onChange=${onChange} />
      ${!isListing && html`<${TimeOfDayChip} state=${state} cameras=${cameras} onChange=${onChange} />`}
      <${MetadataChips} state=${state} onChange=${onChange} />
      ${queryCamera && html`
        <label class=${state.others ? "chip active toggle" : "chip toggle"}>
          <input type="checkbox" checked=${state.others} onChange=${(event) => onChange({ others: event.target.checked })} />
          Other cameras only</label>`}
      ${children}
    </div>`;
}

function CameraChip({ state, cameras, isSingle, onChange }) {
  const [text, setText] = useState("");
  const chosen = new Set(state.cameras);
  const known = (cameras || []).filter((each) => each.camera_id !== null);
  const needle = text.toLowerCase();
  const rows = known.filter((each) => !needle || each.camera_id.toLowerCase().includes(needle));
  const unknown = state.cameras.filter((name) => !known.some((each) => each.camera_id === name));
  const toggle = (name) => onChange({ cameras: isSingle ? [name].filter((each) => !chosen.has(each)) : chosen.has(name) ? state.cameras.filter((each) => each !== name) : [...state.cameras, name] });
  const value = !chosen.size ? "all" : chosen.size === 1 ? state.cameras[0] : plural(chosen.size, "camera");
  const submit = (event) => {
    event.preventDefault();
    if (!cameras && text.trim()) {
      onChange({ cameras: isSingle ? [text.trim()] : [...chosen, text.trim()] });
      setText("");
    }
  };
  return html`
    <${Chip} name="Cameras" value=${value} active=${chosen.size > 0} onClear=${() => onChange({ cameras: [] })}>
      <form onSubmit=${submit}>
        ${(!cameras || known.length > 8) && html`
          <label>${cameras ? "Find a camera" : "Camera"} <input type="text" value=${text} onInput=${(event) => setText(event.target.value)} /></label>`}
        ${!cameras && html`<button type="submit">Add</button>`}
        <div class="options" role="group" aria-label="Cameras">
          ${unknown.map((name) => html`<${CameraOption} key=${name} name=${name} checked=${true} onToggle=${toggle} />`)}
          ${rows.slice(0, 200).map((each) => html`
            <${CameraOption} key=${each.camera_id} name=${each.camera_id} count=${each.records} checked=${chosen.has(each.camera_id)} onToggle=${toggle} />`)}
        </div>
        ${rows.length > 200 && html`<p class="quiet">${rows.length - 200} more: type a part of the name.</p>`}
        ${cameras && !known.length && html`<p class="quiet">No record names its camera.</p>`}
      </form>
    </${Chip}>`;
}

function CameraOption({ name, count, checked, onToggle }) {
  return html`<label class="option"><input type="checkbox" checked=${checked} onChange=${() => onToggle(name)} /> <bdi>${name}</bdi>
    ${count !== undefined && html`<span class="quiet">${count}</span>`}</label>`;
}

function TimeChip({ state, onChange }) {
  const active = Boolean(state.after || state.before || state.timeless);
  const value = !active ? "any"
    : state.timeless ? "without a time"
    : state.after && state.before ? `${formatShortTime(state.after)} to ${formatShortTime(state.before)}`
    : state.after ? `from ${formatShortTime(state.after)}` : `until ${formatShortTime(state.before)}`;
  const change = (name) => (event) => {
    const time = fromLocalInput(event.target.value) || "";
    const other = name === "after" ? "before" : "after";
    const wrong = time && state[other] && (name === "after" ? time > state[other] : time < state[other]);
    event.target.setCustomValidity(wrong ? "The end is before the start." : "");
    if (wrong) event.target.reportValidity();
    else onChange({ [name]: time, timeless: false });
  };
  return html`
    <${Chip} name="Time" value=${value} active=${active} onClear=${() => onChange({ after: "", before: "", timeless: false })}>
      <div class="actions">
        ${Object.entries(RANGES).map(([name, range]) => html`<button type="button" key=${name} onClick=${() => onChange({ ...range(), timeless: false })}>${name}</button>`)}
      </div>
      <label>From <input type="datetime-local" step="1" value=${toLocalInput(state.after)} onChange=${change("after")} /></label>
      <label>Until <input type="datetime-local" step="1" value=${toLocalInput(state.before)} onChange=${change("before")} /></label>
      <label class="option"><input type="checkbox" checked=${state.timeless}
        onChange=${(event) => onChange({ timeless: event.target.checked, after: "", before: "", from: "", to: "" })} /> Only records without a time</label>
      <p class="quiet">Times of ${timeZone}. Records without a time pass no other time filter.</p>
    </${Chip}>`;
}

function TimeOfDayChip({ state, cameras, onChange }) {
  const active = Boolean(state.from && state.to);
  const times = (cameras || []).flatMap((each) => [each.first_time, each.last_time]).filter(Boolean).sort();
  const [from, setFrom] = useState(state.from);
  const [to, setTo] = useState(state.to);
  useEffect(() => {
    setFrom(state.from);
    setTo(state.to);
  }, [state.from, state.to]);
  const change = (nextFrom, nextTo) => {
    setFrom(nextFrom);
    setTo(nextTo);
    if (Boolean(nextFrom) === Boolean(nextTo) && (!nextFrom || nextFrom !== nextTo)) onChange({ from: nextFrom, to: nextTo, timeless: false });
  };
  return html`
    <${Chip} name="Time of day" value=${active ? `${state.from} to ${state.to}` : "any"} active=${active} onClear=${() => change("", "")}>
      <label>From <input type="time" value=${from} onChange=${(event) => change(event.target.value, to)} /></label>
      <label>Until <input type="time" value=${to} onChange=${(event) => change(from, event.target.value)} /></label>
      <p class="quiet">Every day, times of ${timeZone}. From 22:00 until 06:00 means over midnight.</p>
      ${active && clocksChange(state, times[0], times.at(-1)) && html`<p class="note">The clocks change between these times, and UTC${utcOffset(state)} counts for all: records of
        the other season pass an hour off. Choose a time of one season.</p>`}
    </${Chip}>`;
}

function MetadataChips({ state, onChange }) {
  const [name, setName] = useState("");
  const [value, setValue] = useState("");
  const submit = (event) => {
    event.preventDefault();
    if (!name.trim() || name.includes("=")) return;
    onChange({ metadata: [...state.metadata.filter((each) => !each.startsWith(`${name.trim()}=`)), `${name.trim()}=${value}`] });
    setName("");
    setValue("");
  };
  const remove = (item) => {
    onChange({ metadata: state.metadata.filter((each) => each !== item) });
    refocus(".filters .chip.active .icon", ".filters summary");
  };
  return html`
    ${state.metadata.map((item) => html`
      <span class="chip active" key=${item}><span class="label"><bdi>${item}</bdi></span>
        <button type="button" class="icon" aria-label=${`Remove the filter ${item}`}
          onClick=${() => remove(item)}>${"\u00d7"}</button></span>`)}
    <${Chip} name="+" value="metadata">
      <form onSubmit=${submit}>
        <label>Name <input type="text" value=${name} onInput=${(event) => setName(event.target.value)} placeholder="zone" required /></label>
        <label>Value <input type="text" value=${value} onInput=${(event) => setValue(event.target.value)} placeholder="platform" /></label>
        <p class="quiet">The record must have exactly this value. A number such as 5 is the number; "5" in quotes is text.</p>
        <button type="submit">Add the filter</button>
      </form>
    </${Chip}>`;
}
