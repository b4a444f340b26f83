/** Ctrl-C, `kill` and a closed terminal stop what is under way, so that it can end cleanly; twice means at once. */

import { Exit } from './exit.ts';

export function stopOnSignals(): AbortSignal {
  const stop = new AbortController();
  const stopped = (signal: NodeJS.Signals) => {
    // The second time somebody means it.
    if (stop.signal.aborted) process.exit(signal === 'SIGINT' ? Exit.interrupted : Exit.terminated);
    stop.abort(signal);
  };
  process.on('SIGINT', stopped).on('SIGTERM', stopped).on('SIGHUP', stopped);
  return stop.signal;
}
