// In pixels: a store's page may have any root font size.
export const MESSENGER_STYLE = new CSSStyleSheet();
MESSENGER_STYLE.replaceSync(`
  :host { all: initial; color-scheme: light dark; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
  :host([hidden]), [hidden] { display: none !important; }
  * { box-sizing: border-box; }
  svg { display: block; inline-size: 24px; block-size: 24px; fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
  [part="button"] svg { inline-size: 28px; block-size: 28px; }
  :focus-visible { outline: 3px solid var(--chats-accent, light-dark(#2450b8, #8db1ff)); outline-offset: 3px; }
  [part="button"] {
    position: fixed; inset: var(--chats-inset, auto max(20px, env(safe-area-inset-right)) max(20px, env(safe-area-inset-bottom)) auto);
    z-index: var(--chats-z-index, 2147483000); display: grid; place-items: center;
    inline-size: 56px; block-size: 56px; padding: 0; border: 1px solid transparent; border-radius: 50%; cursor: pointer;
    background: var(--chats-accent, light-dark(#2450b8, #8db1ff)); color: var(--chats-on-accent, light-dark(#fff, #0b1530));
    box-shadow: 0 4px 16px rgb(0 0 0 / .22);
  }
  [part="button"]:hover { filter: brightness(1.08); }
  .unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  chats-badge { position: absolute; inset-block-start: -4px; inset-inline-end: -4px; font-size: 16px; }
  [part="panel"] {
    position: fixed; inset: var(--chats-panel-inset, auto max(20px, env(safe-area-inset-right)) calc(max(20px, env(safe-area-inset-bottom)) + 72px) auto);
    z-index: var(--chats-z-index, 2147483000); inline-size: min(400px, 100vw - 40px); block-size: min(640px, 100dvh - 184px);
    max-inline-size: none; max-block-size: none; margin: 0; padding: 0; overflow: hidden;
    border: 1px solid light-dark(#dcdfe5, #343944); border-radius: 16px;
    background: light-dark(#f5f6f8, #121419); color: light-dark(#1a1d23, #e8eaee); box-shadow: 0 12px 48px rgb(0 0 0 / .24);
  }
  [part="panel"]:focus { outline: none; }
  [part="frame"] { display: block; inline-size: 100%; block-size: 100%; border: 0; }
  [part="close"] {
    position: absolute; inset-block-start: 8px; inset-inline-end: 8px; z-index: 1; display: grid; place-items: center;
    inline-size: 40px; block-size: 40px; padding: 0; border: 0; border-radius: 8px; background: none; color: inherit; cursor: pointer;
  }
  [part="close"] svg { inline-size: 20px; block-size: 20px; }
  [part="close"]:hover { background: light-dark(rgb(0 0 0 / .08), rgb(255 255 255 / .12)); }
  [part="close"]:focus-visible { outline-offset: -3px; }
  [part="note"] { display: grid; place-content: center; justify-items: center; gap: 16px; block-size: 100%; padding: 24px; text-align: center; }
  [part="note"] a {
    padding: 10px 20px; border-radius: 10px; font-weight: 600; text-decoration: none;
    background: var(--chats-accent, light-dark(#2450b8, #8db1ff)); color: var(--chats-on-accent, light-dark(#fff, #0b1530));
  }
  @media (width < 480px), (height < 400px) {
    [part="panel"] { inset: 0; inline-size: 100%; block-size: 100%; border: 0; border-radius: 0; }
  }
  @media (prefers-reduced-motion: no-preference) {
    [part="panel"][open] { animation: rise .18s ease-out; }
    @keyframes rise { from { opacity: 0; transform: translateY(8px); } }
  }
  @media print { :host { display: none; } }
  @media (forced-colors: active) { [part="button"] { border-color: ButtonText; } }
`);
