// Texts for numbers and times. All times are shown in the browser's time zone, which full ones name.

const dateTime = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short",
});
const SHORT = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
/** Formats without the year, for this one, and with it for others. */
const pair = (options, ofOthers) => [options, { ...options, ...ofOthers }].map((each) => new Intl.DateTimeFormat(undefined, each));
const short = pair({ ...SHORT, second: "2-digit" }, { year: "numeric" });
const minute = pair(SHORT, { year: "2-digit", month: "numeric", day: "numeric" }); // as wide as a tile
const thisYear = new Date().getFullYear();
const within = ([ofThisYear, ofOthers], text) => {
  const time = new Date(text);
  return (time.getFullYear() === thisYear ? ofThisYear : ofOthers).format(time);
};
const count = new Intl.NumberFormat(undefined);

export const timeZone = Intl.DateTimeFormat().resolvedOptions().timeZone || "local time";

export const formatTime = (text) => (text ? dateTime.format(new Date(text)) : "no time");
export const formatShortTime = (text) => (text ? within(short, text) : "no time");
/** Day and minute, in little space. */
export const formatMinute = (text) => (text ? within(minute, text).replace(/,/g, "") : "no time");
export const formatCount = (value) => count.format(value);
export const formatScore = (value) => value.toFixed(2);

/** A probability in percent. Only 0 and 1 themselves are shown as 0 % and 100 %. */
export function formatProbability(value) {
  const percent = value * 100;
  if (value > 0 && percent < 1) return "< 1 %";
  if (value < 1 && percent > 99) return "> 99 %";
  return `${Math.round(percent)} %`;
}

/** Return `2 records` or `1 record`. */
export const plural = (number, noun) => `${formatCount(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A UTC time for an input of type `datetime-local`, in local time. */
export function toLocalInput(text) {
  if (!text) return "";
  const time = new Date(text);
  const local = new Date(time.getTime() - time.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19);
}

/** The local time of an input as RFC 3339 in UTC, or `null`. */
export function fromLocalInput(text) {
  const time = new Date(text);
  return text && !Number.isNaN(time.getTime()) ? time.toISOString() : null;
}

/** The middle of a record's interval in milliseconds, or `null` without a time. */
export function timeOf(record) {
  const start = record.start_time || record.end_time;
  if (!start) return null;
  const end = record.end_time || record.start_time;
  return (Date.parse(start) + Date.parse(end)) / 2;
}

export function duration(record) {
  if (!record.start_time || !record.end_time) return null;
  const seconds = (Date.parse(record.end_time) - Date.parse(record.start_time)) / 1000;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
