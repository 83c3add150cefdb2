// The protocols that every peer serves; the README says what each is.

export const ABORT = '/interop/abort/1.0.0'
export const CLOSE = '/interop/close/1.0.0'
export const ECHO = '/echo/1.0.0'
export const HALF_CLOSE = '/interop/half-close/1.0.0'
export const PERF = '/perf/1.0.0'
export const PING = '/ipfs/ping/1.0.0'
export const REPORT = '/interop/report/1.0.0'
export const SINK = '/interop/sink/1.0.0'
export const SLOW = '/interop/slow/1.0.0'
