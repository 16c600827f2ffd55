// The date that a chat template may print (strftime_now). It is a local time without time zone, so that a recorded one prints
// alike on every machine.
import { refuse } from "../base/check.js";

/** Month 1 to 12, day 1 to 31; the rest as clocks show it. */
export interface WallClock {
  year: number;
  month: number;
  day: number;
  hour: number;
  minute: number;
  second: number;
}

const form = /^(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):(\d\d):(\d\d))?$/;
const expected = "a Date, or a string YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS";

const ofDate = (d: Date): WallClock => ({
  year: d.getFullYear(),
  month: d.getMonth() + 1,
  day: d.getDate(),
  hour: d.getHours(),
  minute: d.getMinutes(),
  second: d.getSeconds(),
});

const utc = (c: WallClock): Date => new Date(Date.UTC(c.year, c.month - 1, c.day, c.hour, c.minute, c.second));

/** The clock that an option gives (a Date: its local time); without one, what the clock shows now. */
export function wallClock(field: string, value: unknown): WallClock {
  if (value === undefined) return ofDate(new Date());
  if (value instanceof Date && !Number.isNaN(value.getTime())) {
    const clock = ofDate(value);
    return clock.year >= 1000 && clock.year <= 9999 ? clock : refuse(field, expected, value.toISOString());
  }
  const match = typeof value === "string" ? form.exec(value) : null;
  if (!match) return refuse(field, expected, value);
  const [year, month, day, hour, minute, second] = match.slice(1).map((x) => Number(x ?? 0)) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const clock = { year, month, day, hour, minute, second };
  const written = `${match[1]}-${match[2]}-${match[3]}T${match[4] ?? "00"}:${match[5] ?? "00"}:${match[6] ?? "00"}`;
  if (year < 1000 || utc(clock).toISOString().slice(0, 19) !== written)
    refuse(field, "a date of the calendar (1000 to 9999)", value);
  return clock;
}

const pad = (n: number, width: number, by = "0") => String(n).padStart(width, by);

/** As the option takes it. */
export const clockText = (c: WallClock): string => utc(c).toISOString().slice(0, 19);

const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const months = "January February March April May June July August September October November December".split(" ");

/** Year and week of ISO 8601. */
function isoWeek(c: WallClock): { year: number; week: number } {
  const thursday = utc({ ...c, hour: 0, minute: 0, second: 0 });
  thursday.setUTCDate(thursday.getUTCDate() + 4 - (thursday.getUTCDay() || 7));
  const year = thursday.getUTCFullYear();
  return { year, week: 1 + Math.floor((thursday.getTime() - Date.UTC(year, 0, 1)) / 604_800_000) };
}

/** What a letter stands for: a number with its width and filling, or words. */
function value(letter: string, c: WallClock): [number, number, string] | string | undefined {
  const weekday = utc(c).getUTCDay();
  const ofYear = Math.floor((Date.UTC(c.year, c.month - 1, c.day) - Date.UTC(c.year, 0, 1)) / 86_400_000);
  const twelve = c.hour % 12 || 12;
  const same = (format: string) => strftime(format, c);
  const table: Record<string, () => [number, number, string] | string> = {
    a: () => days[weekday]!.slice(0, 3),
    A: () => days[weekday]!,
    b: () => months[c.month - 1]!.slice(0, 3),
    h: () => months[c.month - 1]!.slice(0, 3),
    B: () => months[c.month - 1]!,
    c: () => same("%a %b %e %H:%M:%S %Y"),
    C: () => [Math.floor(c.year / 100), 2, "0"],
    d: () => [c.day, 2, "0"],
    D: () => same("%m/%d/%y"),
    e: () => [c.day, 2, " "],
    f: () => "000000",
    F: () => same("%Y-%m-%d"),
    g: () => [isoWeek(c).year % 100, 2, "0"],
    G: () => [isoWeek(c).year, 4, "0"],
    H: () => [c.hour, 2, "0"],
    I: () => [twelve, 2, "0"],
    j: () => [ofYear + 1, 3, "0"],
    k: () => [c.hour, 2, " "],
    l: () => [twelve, 2, " "],
    m: () => [c.month, 2, "0"],
    M: () => [c.minute, 2, "0"],
    n: () => "\n",
    p: () => (c.hour < 12 ? "AM" : "PM"),
    P: () => (c.hour < 12 ? "am" : "pm"),
    r: () => same("%I:%M:%S %p"),
    R: () => same("%H:%M"),
    S: () => [c.second, 2, "0"],
    t: () => "\t",
    T: () => same("%H:%M:%S"),
    u: () => [weekday || 7, 1, "0"],
    U: () => [Math.floor((ofYear + 7 - weekday) / 7), 2, "0"],
    V: () => [isoWeek(c).week, 2, "0"],
    w: () => [weekday, 1, "0"],
    W: () => [Math.floor((ofYear + 7 - ((weekday + 6) % 7)) / 7), 2, "0"],
    x: () => same("%m/%d/%y"),
    X: () => same("%H:%M:%S"),
    y: () => [c.year % 100, 2, "0"],
    Y: () => [c.year, 4, "0"],
    z: () => "",
    Z: () => "",
    "%": () => "%",
  };
  return Object.hasOwn(table, letter) ? table[letter]!() : undefined;
}

/** Python's datetime.strftime of a date without time zone, in the C locale, with glibc's flags `-`, `_`, `0`, `^`, `#`. */
export function strftime(format: string, clock: WallClock): string {
  return format.replace(/%([-_0^#]?)([\s\S]?)/gu, (whole, flag: string, letter: string) => {
    const found = value(letter, clock);
    if (found === undefined) throw new Error(`strftime_now: ${JSON.stringify(whole)} is not supported`);
    if (typeof found === "string") {
      if (flag === "^") return found.toUpperCase();
      if (flag !== "#") return found;
      return letter === "p" ? found.toLowerCase() : found.toUpperCase();
    }
    const [n, width, by] = found;
    if (flag === "-") return String(n);
    return pad(n, width, flag === "_" ? " " : flag === "0" ? "0" : by);
  });
}
