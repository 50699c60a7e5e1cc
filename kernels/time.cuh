// Scaled time of a packet in whole units of 2^-30: log10(us / unit + offset), 0 up to the time of bits `last_zero`.
//
// src/cuda/fixed.rs does the same steps in the same order, each rounded as IEEE 754 says (hence --fmad=false, and fma only
// where it is written), so host and device get the same integer, and sums of integers do not depend on the order in which
// threads add. The device's own log10 may differ from the host's by a unit in the last place.
//
// Cost: one division and about 20 f64 operations; no table.
#pragma once

struct TimeScale {
    double unit;         // microseconds: 1, or 1000 for log10-ms
    double offset;       // 1 for log1p, 0 for log10
    unsigned last_zero;  // bits of the last f32 time that counts as 0 because the scaler says so
};

// Added so that no value is negative: 16 units of scaled time. Values then lie in 0 .. 2^36.
#define TIME_BIAS (1ll << 34)

// log10 of a normal, positive number: v = 2^e m with m in [0.707, 1.414], and log m = 2 artanh((m - 1) / (m + 1)), whose series
// is cut after s^17: 3e-16 at most.
__device__ inline double log10_of(double v) {
    long long bits = __double_as_longlong(v);
    int e = (int)(bits >> 52) - 1023;
    double m = __longlong_as_double((bits & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        e += 1;
    }
    double s = (m - 1.0) / (m + 1.0);
    double z = s * s;
    // 2 log10(e) / (2 i + 1), from i = 8 down to 0.
    double p = 0.0510934684592061;
    p = fma(p, z, 0.05790593092043358);
    p = fma(p, z, 0.06681453567742336);
    p = fma(p, z, 0.07896263307331851);
    p = fma(p, z, 0.0965098848673893);
    p = fma(p, z, 0.12408413768664338);
    p = fma(p, z, 0.17371779276130073);
    p = fma(p, z, 0.2895296546021679);
    p = fma(p, z, 0.8685889638065036);
    return fma((double)e, 0.3010299956639812, s * p);
}

__device__ inline long long scaled_time(unsigned bits, const TimeScale& scale) {
    bits &= 0x7fffffffu;  // -0 is 0
    if (bits <= scale.last_zero) return 0;
    double v = (double)__uint_as_float(bits) / scale.unit + scale.offset;
    return __double2ll_rn(log10_of(v) * 1073741824.0);
}
