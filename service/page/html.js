// The view library: what the other modules import.
import htm from "./vendor/htm.js";
import { h } from "./vendor/preact.js";

export { render } from "./vendor/preact.js";
export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";

export const html = htm.bind(h);

/** Draw a component again only if one of its properties changes. */
export function memo(component) {
  return function Memo(props) {
    this.shouldComponentUpdate = (next) => {
      const names = Object.keys({ ...this.props, ...next });
      return names.some((name) => this.props[name] !== next[name]);
    };
    return h(component, props);
  };
}
