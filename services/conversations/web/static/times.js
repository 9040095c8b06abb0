// Times in the language and time zone of the page.

/** Format a time, with the date unless it is today. */
export function writeMoment(iso) {
  const { locale, zone } = document.documentElement.dataset;
  const write = (style, date) => formatter(locale, zone, style).format(date);
  const [date, now, day] = [new Date(iso), new Date(), { dateStyle: "short" }];
  const today = write(day, date) === write(day, now);
  return write(today ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" }, date);
}

function formatter(locale, zone, style) {
  try {
    return new Intl.DateTimeFormat(locale, { timeZone: zone, ...style });
  } catch { // a zone that is newer than this browser
    return new Intl.DateTimeFormat(undefined, style);
  }
}
