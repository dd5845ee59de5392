// One axis of a bilinear resize, as torch computes it, and its cells.
//
// A *cell* is the interval between two neighbouring inputs i and i + 1. Every output lies in one cell, so cells cut the
// outputs into runs: that is how kernels share an enlargement out among blocks, whatever the sizes, and why odd ones need no
// case of their own.
#pragma once

#include "numbers.h"

namespace edgesmith {

struct Axis {
    int in, out;
    float scale;  // inputs an output
    bool aligned; // coordinates: corners aligned, or half-pixel

    /// The two inputs that an output lies between, and the weight of the second.
    struct Source {
        int low, high;
        float weight;
    };

    EDGESMITH_BOTH Source at(int output) const {
        float const centre = aligned ? product(scale, float(output)) : fused(scale, float(output) + 0.5f, -0.5f);
        float const place = centre < 0.0f ? 0.0f : centre;
        int const low = smaller(int(place), in - 1);
        float const weight = place - float(low);
        return {low, smaller(low + 1, in - 1), weight > 1.0f ? 1.0f : weight};
    }

    /// The first output in cell `cell` or behind it: outputs first(i) to first(i + 1) - 1 lie in cell i.
    EDGESMITH_BOTH int first(int cell) const {
        if (cell <= 0) return 0;
        if (cell >= in) return out;
        int guess = scale > 0.0f ? smaller(int(float(cell) / scale), out) : out;
        while (guess > 0 && at(guess - 1).low >= cell) --guess;
        while (guess < out && at(guess).low < cell) ++guess;
        return guess;
    }
};

inline Axis axis(int in, int out, bool aligned) {
    float const scale = !aligned ? float(in) / float(out) : out > 1 ? float(in - 1) / float(out - 1) : 0.0f;
    return {in, out, scale, aligned};
}

EDGESMITH_BOTH float mixed(float a, float b, float weight) { return (1.0f - weight) * a + weight * b; }

/// What an axis has halved: a zoomed convolution works at floor(size / 2), at least 1.
EDGESMITH_BOTH int halved(int size) { return larger(1, size / 2); }

}  // namespace edgesmith
