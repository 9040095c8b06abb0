// How scripts write a time: in the language and the zone of the page.

/** Write a moment; the date only if it is another day. */
export function writeMoment(iso, locale, zone) {
  const write = (style, date) => new Intl.DateTimeFormat(locale, { timeZone: zone, ...style }).format(date);
  const [date, now, day] = [new Date(iso), new Date(), { dateStyle: "short" }];
  const today = write(day, date) === write(day, now);
  return write(today ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" }, date);
}
