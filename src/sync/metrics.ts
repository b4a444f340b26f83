/** What a server counts, in the text format of Prometheus (exposition format 0.0.4). */

import type { ByteCount } from '../base/units.ts';
import type { ServedSession } from './server.ts';

export class ServerMetrics {
  refused = 0;
  private running = 0;
  private ended = 0;
  private failures = 0;
  private received: ByteCount = 0;
  private sent: ByteCount = 0;
  private compared: ByteCount = 0;
  private placed: ByteCount = 0;
  private data: ByteCount = 0;
  private checkpoints = 0;

  traffic(received: ByteCount, sent: ByteCount): void {
    this.received += received;
    this.sent += sent;
  }

  begin(): void {
    this.running++;
  }

  /** A connection whose sessions all ended well. */
  end(): void {
    this.running--;
  }

  served({ totals }: ServedSession): void {
    this.ended++;
    this.compared += totals.comparedBytes;
    this.placed += totals.placedBytes;
    this.data += totals.sentBytes;
    this.checkpoints += totals.checkpoints;
  }

  failed(): void {
    this.running--;
    this.failures++;
  }

  /** Ends with a line feed, as the format asks. */
  text(): string {
    return [
      metric('sessions', 'gauge', 'connections that carry sessions', this.running),
      metric('sessions_ended_total', 'counter', 'sessions that ended well', this.ended),
      metric('sessions_failed_total', 'counter', 'sessions that ended with an error', this.failures),
      metric('connections_refused_total', 'counter', 'connections that came to no session', this.refused),
      metric('received_bytes_total', 'counter', 'bytes of frames received', this.received),
      metric('sent_bytes_total', 'counter', 'bytes of frames sent', this.sent),
      metric('compared_bytes_total', 'counter', 'bytes of disks compared', this.compared),
      metric('placed_bytes_total', 'counter', 'bytes placed by signature', this.placed),
      metric('data_bytes_total', 'counter', 'bytes of disks sent as data', this.data),
      metric('checkpoints_total', 'counter', 'checkpoints made durable', this.checkpoints),
    ].join('');
  }
}

function metric(name: string, type: 'gauge' | 'counter', help: string, value: number): string {
  const full = `driftmap_${name}`;
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${full} ${value}\n`;
}
