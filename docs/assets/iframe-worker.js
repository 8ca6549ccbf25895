/* A page opened from the disk may start no Worker, which the search is: a frame that runs the same script stands in for it. */
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const load = source =>
        new Promise((done, failed) => {
          const script = inner.document.createElement("script");
          Object.assign(script, { src: source, onload: done, onerror: failed });
          inner.document.body.append(script);
        });
      inner.importScripts = (...sources) => sources.reduce((before, one) => before.then(() => load(one)), Promise.resolve());
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
      const ready = load(url);
      this.postMessage = data => ready.then(() => inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
