/** Ctrl-C asks for a stop; the second time it is meant at once. */

import { Exit } from './exit.ts';

export function stopOnSignals(): AbortSignal {
  const stop = new AbortController();
  const stopped = (signal: NodeJS.Signals) => {
    if (stop.signal.aborted) process.exit(signal === 'SIGINT' ? Exit.interrupted : Exit.terminated);
    stop.abort(signal);
  };
  process.on('SIGINT', stopped).on('SIGTERM', stopped).on('SIGHUP', stopped);
  return stop.signal;
}
