/**
 * A connection to another site that carries several sessions, one after another: one ssh, one handshake of TLS, one
 * greeting for all disks. A session that fails ends the connection it ran over; the next one connects anew.
 */

import { DriftmapError } from '../base/errors.ts';
import { type Place, parsePlace } from '../wire/site.ts';
import { type Reached, type RemoteSite, reach, type SiteOptions, stopped } from './connect.ts';

/** A disk of a site that is connected: as `replica` or `production` of `sync`, `compareSites` and `verify`. */
export class SiteDisk {
  readonly site: SiteConnection;
  /** The name of a grant, or a path. */
  readonly name: string;

  constructor(site: SiteConnection, name: string) {
    this.site = site;
    this.name = name;
  }

  get address(): RemoteSite & { readonly via: SiteConnection } {
    return { ...this.site.place, disk: this.name, via: this.site } as RemoteSite & { via: SiteConnection };
  }
}

export class SiteConnection {
  readonly place: Place;
  private readonly options: SiteOptions;
  private reached: Reached | null;
  private last: Promise<unknown> = Promise.resolve();
  private closed = false;

  constructor(place: Place, options: SiteOptions, reached: Reached) {
    this.place = place;
    this.options = options;
    this.reached = reached;
  }

  /** @param name of a grant, or a path where the site serves any */
  disk(name: string): SiteDisk {
    return new SiteDisk(this, name);
  }

  /** One session; it waits for those before it. */
  session<T>(signal: AbortSignal | undefined, act: (reached: Reached) => Promise<T>): Promise<T> {
    const run = this.last.then(() => this.run(signal, act));
    this.last = run.catch(() => undefined);
    return run;
  }

  /** Waits for the session under way, and says goodbye. Idempotent. */
  async close(): Promise<void> {
    this.closed = true;
    await this.last;
    await this.reached?.close();
    this.reached = null;
  }

  private async run<T>(signal: AbortSignal | undefined, act: (reached: Reached) => Promise<T>): Promise<T> {
    if (this.closed) throw new DriftmapError('argument', 'this connection is closed: connect again');
    if (signal?.aborted) throw stopped(signal);
    if (this.reached?.connection.isOpen !== true) {
      await this.reached?.close();
      this.reached = await reach(this.place, this.options);
    }
    const { connection, explain, close } = this.reached;
    const [sent, received] = [connection.bytesSent, connection.bytesReceived];
    const wire = {
      get bytesSent() {
        return connection.bytesSent - sent;
      },
      get bytesReceived() {
        return connection.bytesReceived - received;
      },
    };
    const stop = () => void connection.abandon(stopped(signal));
    signal?.addEventListener('abort', stop, { once: true });
    try {
      return await act({ connection, wire, explain, close });
    } catch (cause) {
      const error = await explain(signal?.aborted ? stopped(signal) : cause);
      if (error instanceof DriftmapError) await connection.abandon(error);
      this.reached = null;
      throw error;
    } finally {
      signal?.removeEventListener('abort', stop);
    }
  }
}

/**
 * Connects to another site and greets it.
 * @param address `ssh://host`, `driftmaps://host:port`, `driftmap://host:port`
 * @throws DriftmapError `argument`, `io`, `permission`, `unsupported` (no common version), `policy` (plain TCP)
 */
export async function connect(address: string, options: SiteOptions = {}): Promise<SiteConnection> {
  const place = parsePlace(address);
  return new SiteConnection(place, options, await reach(place, options));
}
