/** What a splitter can be asked through its control socket (`STATE/control.sock`). */

import { join } from 'node:path';
import { DriftmapError } from '../../base/errors.ts';
import { type ControlRoutes, TextAnswer } from '../group/control.ts';
import { splitterMetrics } from './metrics.ts';
import type { Splitter } from './splitter.ts';
import { watchRoutes } from './watch-routes.ts';

export function controlSocketOf(stateFolder: string): string {
  return join(stateFolder, 'control.sock');
}

export function splitterRoutes(splitter: Splitter): ControlRoutes {
  return {
    'GET /state': () => splitter.state(),
    'GET /metrics': () => new TextAnswer(splitterMetrics(splitter.state()), 'text/plain; version=0.0.4'),
    'POST /pause': () => {
      splitter.pause();
      return splitter.state();
    },
    'POST /resume': () => {
      splitter.resume();
      return splitter.state();
    },
    'POST /bookmark': async ({ body }) => {
      const { name, consistency } = body as { name?: unknown; consistency?: unknown };
      if (typeof name !== 'string' || name === '')
        throw new DriftmapError('argument', "expected a 'name' for the bookmark");
      if (consistency !== undefined && consistency !== 'crash' && consistency !== 'application')
        throw new DriftmapError('argument', "expected a 'consistency' of crash or application");
      const { sequence, time } = await splitter.bookmark(name, consistency ?? 'crash');
      return { name, sequence, time, consistency: consistency ?? 'crash' };
    },
    ...watchRoutes(splitter),
    'POST /snapshot': ({ body }) => splitter.ask('snapshot', body),
    'GET /points': () => splitter.ask('points', {}),
  };
}
