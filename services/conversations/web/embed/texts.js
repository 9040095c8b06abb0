const TEXTS = {
  en: {
    label: "Messages",
    unread: "{count} unread",
    close: "Close",
    loading: "Loading …",
    away: "Your messages cannot be shown here.",
    open: "Open your messages",
    signIn: "Sign in to see your messages.",
    enter: "Sign in",
  },
  de: {
    label: "Nachrichten",
    unread: "{count} ungelesen",
    close: "Schließen",
    loading: "Wird geladen …",
    away: "Ihre Nachrichten können hier nicht gezeigt werden.",
    open: "Nachrichten öffnen",
    signIn: "Melden Sie sich an, um Ihre Nachrichten zu sehen.",
    enter: "Anmelden",
  },
};

/** Return the texts in the language of an element: that of its page, else of the browser. */
export function textsFor(host) {
  const language = host.closest("[lang]")?.lang || navigator.language;
  return TEXTS[language.slice(0, 2).toLowerCase()] ?? TEXTS.en;
}
