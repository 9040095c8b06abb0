/** Read Server-Sent Events; `alive` is called for every chunk. */
export async function* readEvents(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // an incomplete event is dropped
    alive();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // the \r at the end may be half a \r\n
    rest = lines.pop();
    for (const line of lines) {
      const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") event.type = content;
      else if (field === "data") event.data.push(content);
      else if (line === "") {
        if (event.data.length) yield { type: event.type, data: event.data.join("\n") };
        event = { type: "message", data: [] };
      }
    }
  }
}
