import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Two cores are what CI has; scans start threads of their own.
    maxWorkers: 2,
    pool: 'forks',
    reporters: ['default'],
  },
});
