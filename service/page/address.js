// The state that can be bookmarked and shared. It is in the part of the address after `#`, which is never sent to a server,
// and it has ids and filters only: no picture and no vector.

const LISTS = {
  like: "like", unlike: "unlike", same: "same", different: "different", unsure: "unsure",
  camera: "cameras", meta: "metadata",
};
const TEXTS = {
  after: "after", before: "before", from: "from", to: "to", min: "min", sort: "sort", record: "record", case: "case", path: "path",
  watchlist: "watchlist",
};
const FLAGS = { others: "others", upload: "upload", timeless: "timeless" };
const VIEWS = ["search", "records", "cases", "alerts"];

export const EMPTY = {
  view: "search",
  like: [], unlike: [], // examples that the search uses: of the person, and of others
  same: [], different: [], unsure: [], // verdicts that the next search uses
  cameras: [], metadata: [],
  after: "", before: "", from: "", to: "",
  min: "", sort: "", record: "", case: "", path: "", watchlist: "",
  others: false, upload: false, timeless: false,
};

/** Return a time as the service takes it, or "": people edit addresses. Without an offset it is local. */
function readTime(text) {
  const time = new Date(/^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00` : text);
  const year = time.getUTCFullYear();
  return year >= 1 && year <= 9999 ? time.toISOString() : "";
}

/** Read the state from `location.hash`. Unknown and malformed parts are left out. */
export function parse(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const state = structuredClone(EMPTY);
  if (VIEWS.includes(path)) state.view = path;
  const values = new URLSearchParams(query);
  for (const [name, field] of Object.entries(LISTS)) state[field] = [...new Set(values.getAll(name))].filter(Boolean);
  for (const [name, field] of Object.entries(TEXTS)) state[field] = values.get(name) || "";
  for (const [name, field] of Object.entries(FLAGS)) state[field] = values.get(name) === "1";
  for (const field of ["after", "before"]) state[field] = readTime(state[field]);
  for (const field of ["record", "path", "case"]) if (/^\.\.?$/.test(state[field])) state[field] = ""; // a call would go to another path
  for (const field of ["from", "to"]) if (!/^([01]\d|2[0-3]):[0-5]\d$/.test(state[field])) state[field] = "";
  if (state.min !== "" && !(Math.abs(Number(state.min)) <= 1)) state.min = "";
  if (state.sort !== "time") state.sort = "";
  if (state.timeless) state.after = state.before = state.from = state.to = ""; // no record would pass both
  state.metadata = state.metadata.filter((item) => item.indexOf("=") > 0);
  return state;
}

/** Write a state as the part of an address that starts with `#`. */
export function write(state) {
  const values = new URLSearchParams();
  for (const [name, field] of Object.entries(LISTS)) state[field].forEach((item) => values.append(name, item));
  for (const [name, field] of Object.entries(TEXTS)) if (state[field] !== "") values.set(name, state[field]);
  for (const [name, field] of Object.entries(FLAGS)) if (state[field]) values.set(name, "1");
  const query = values.toString();
  return `#/${state.view}${query ? `?${query}` : ""}`;
}

/** Return `key=value` as an entry of a metadata filter: numbers, true, false and null as such, other values as text. */
function parseMetadata(text) {
  const at = text.indexOf("=");
  let value = text.slice(at + 1);
  try {
    const parsed = JSON.parse(value);
    // A long number, such as that of a case, would be rounded.
    if (typeof parsed === "number" ? Number.isSafeInteger(Math.trunc(parsed)) : typeof parsed !== "object" || !parsed) value = parsed;
  } catch { /* text */ }
  return [text.slice(0, at), value];
}

/** Return the metadata filter of a state. */
export const metadataOf = (state) => Object.fromEntries(state.metadata.map(parseMetadata));

const DAY = 86_400_000;

/** The offset from UTC by which a time of day counts, as `+02:00`: that of the chosen time, otherwise of now. */
export function utcOffset(state) {
  const minutes = -new Date(state.after || state.before || Date.now()).getTimezoneOffset();
  const two = (number) => String(Math.trunc(number)).padStart(2, "0");
  return `${minutes < 0 ? "-" : "+"}${two(Math.abs(minutes) / 60)}:${two(Math.abs(minutes) % 60)}`;
}

/** Whether the clocks change between the chosen times; `first` and `last` stand for those that are not chosen. */
export function clocksChange(state, first, last) {
  const end = Date.parse(state.before || last);
  const offset = new Date(end).getTimezoneOffset();
  for (let time = Math.max(Date.parse(state.after || first), end - 2000 * DAY); time < end; time += DAY) {
    if (new Date(time).getTimezoneOffset() !== offset) return true;
  }
  return false;
}

/** Return the filter of a search as the service takes it. */
export function toFilter(state) {
  const filter = {};
  if (state.cameras.length) filter.camera_ids = state.cameras;
  if (state.after) filter.after = state.after;
  if (state.before) filter.before = state.before;
  if (state.from && state.to) filter.time_of_day = { from: state.from, to: state.to, utc_offset: utcOffset(state) };
  if (state.timeless) filter.without_time = true;
  if (state.metadata.length) filter.metadata = metadataOf(state);
  return filter;
}

export const hasFilter = (state) =>
  Boolean(state.cameras.length || state.after || state.before || state.from || state.to || state.metadata.length || state.others || state.timeless);
