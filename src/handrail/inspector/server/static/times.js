// Times on an axis and in words, all in UTC, as the store counts days.

const DAY = 86_400;
const STEPS = [1, 2, 5, 10, 30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY, 91 * DAY, 364 * DAY];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const two = (n) => String(n).padStart(2, "0");

function day(date) {
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}`;
}

/** About so many [seconds since 1970, text] at round times: the day where one begins, else the time of the day. */
export function marksOfTime(from, to, about) {
  const step = STEPS.find((seconds) => (to - from) / seconds <= about) ?? STEPS.at(-1);
  const found = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    const date = new Date(1000 * at), clock = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
    found.push([at, at % DAY === 0 ? day(date) : step < 60 ? `${clock}:${two(date.getUTCSeconds())}` : clock]);
  }
  return found;
}

/** The span of a unit that begins at a time, in words: "28 Nov 2026, 09:00 to 10:00". */
export function timeOf(at, unit) {
  const date = new Date(1000 * at), on = `${day(date)} ${date.getUTCFullYear()}`;
  const clock = (seconds, digits) => new Date(1000 * seconds).toISOString().slice(11, digits);
  if (unit === "week") return `week from ${on}`;
  if (unit === "day") return on;
  if (unit === "hour") return `${on}, ${clock(at, 16)} to ${clock(at + 3600, 16)}`;
  return `${on}, ${clock(at, unit === "minute" ? 16 : 19)}`;
}

/** A moment to the minute. */
export function moment(at) {
  return at ? `${new Date(1000 * at).toISOString().slice(0, 16).replace("T", " ")} UTC` : "–";
}
