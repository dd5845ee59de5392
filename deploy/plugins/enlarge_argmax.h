// The last enlargement and the argmax in one: logits (classes, h, w) to labels (H, W), without enlarged logits anywhere.
//
// Which class wins at an output? The enlarged logit of class k there is s_k = sum over the cell's four corners i of
// w_i v_ik, with weights w_i >= 0 that sum to 1. Say that k *precedes* j at a corner when v_ik > v_ij, or v_ik = v_ij and
// k < j: argmax, which takes the first of equals, returns the class that precedes all others. Let k precede j at all four
// corners. Then s_k - s_j = sum of w_i (v_ik - v_ij) >= 0, being a convex combination of numbers >= 0. It is 0 only if
// v_ik = v_ij wherever w_i > 0; some w_i is, and there k < j. So k precedes j at the output too. Hence:
//
// * Where the four corners have the same argmax k, it precedes every other class at each corner, so every output of the
//   cell has label k, and no sum is needed. That is exact, ties included.
// * In any other cell a class that one of the corners' winners precedes at all four corners cannot win and is left out.
//
// Rounding keeps the order but not its strictness: fl(a w) and fl(a + b) grow with a, so a computed s_k is never below a
// computed s_j, but may equal it; a rule that sums would then take the lower index. Labels can differ from such a one only
// where two sums agree to rounding.
#pragma once

#include "axis.h"
#include "execute.h"

namespace edgesmith {

constexpr uint32_t ENLARGE_ARGMAX_VERSION = 1;
constexpr int MOST_CLASSES = 255;

/// What one launch computes.
struct Enlargement {
    int classes, images;
    Axis y, x;
    int channel, pixel, row;  // strides of the logits in elements
    int64_t image;
};

constexpr int ENLARGE_THREADS = 128;
constexpr int ENLARGE_ROWS = 4, ENLARGE_COLS = 8;  // cells of a block
constexpr int ENLARGE_CORNERS = (ENLARGE_ROWS + 1) * (ENLARGE_COLS + 1);

/// A class's index as a label. A TensorRT plugin cannot return bytes; in fp16 every index up to 2048 is exact.
template <class Label>
EDGESMITH_BOTH Label from_index(int index) {
    return Label(index);
}
template <>
EDGESMITH_BOTH Half from_index<Half>(int index) {
    return from_float<Half>(float(index));
}

/// Odd, so that neighbouring pixels begin in different banks.
EDGESMITH_BOTH int enlarge_pitch(int classes) { return classes | 1; }
inline int enlarge_shared_bytes(int classes) { return (enlarge_pitch(classes) + 1) * ENLARGE_CORNERS * 4; }

/// Block `index` of image `image`. `labels` is (images, H, W), of bytes or of what a TensorRT plugin may return.
template <class Element, class Label, class Block>
EDGESMITH_DEVICE void enlarge_tile(Block& block, Enlargement const& work, int index, int image, Element const* logits,
                                   Label* labels, char* shared) {
    constexpr int WIDE = ENLARGE_COLS + 1;
    int const tiles_x = parts(work.x.in, ENLARGE_COLS), classes = work.classes, pitch = enlarge_pitch(classes);
    int const y0 = index / tiles_x * ENLARGE_ROWS, x0 = index % tiles_x * ENLARGE_COLS;
    float* const corners = reinterpret_cast<float*>(shared);  // (ENLARGE_CORNERS, pitch)
    int* const winners = reinterpret_cast<int*>(corners + ENLARGE_CORNERS * pitch);
    logits += image * work.image;
    labels += int64_t(image) * work.y.out * work.x.out;

    block.each([=, &work](int thread, auto&) {
        bool const last = work.channel == 1;
        for (int i = thread; i < ENLARGE_CORNERS * classes; i += ENLARGE_THREADS) {
            int const corner = last ? i / classes : i % ENLARGE_CORNERS, c = last ? i % classes : i / ENLARGE_CORNERS;
            int const y = smaller(y0 + corner / WIDE, work.y.in - 1), x = smaller(x0 + corner % WIDE, work.x.in - 1);
            corners[corner * pitch + c] = to_float(logits[int64_t(c) * work.channel + y * work.row + x * work.pixel]);
        }
    });
    block.sync();
    block.each([=](int thread, auto&) {
        for (int corner = thread; corner < ENLARGE_CORNERS; corner += ENLARGE_THREADS) {
            float const* const v = corners + corner * pitch;
            int best = 0;
            for (int c = 1; c < classes; ++c)
                if (v[c] > v[best]) best = c;
            winners[corner] = best;
        }
    });
    block.sync();
    block.each([=, &work](int thread, auto&) {
        // A thread keeps its column and goes down: a warp writes 32 neighbours.
        int const left = work.x.first(x0), width = work.x.first(x0 + ENLARGE_COLS) - left;
        int const top = work.y.first(y0), bottom = work.y.first(y0 + ENLARGE_ROWS);
        int const columns = smaller(width, ENLARGE_THREADS);
        if (columns <= 0 || thread >= ENLARGE_THREADS / columns * columns) return;
        for (int x = left + thread % columns; x < left + width; x += columns) {
            Axis::Source const across = work.x.at(x);
            int const a = across.low - x0, b = across.high - x0;
            for (int y = top + thread / columns; y < bottom; y += ENLARGE_THREADS / columns) {
                Axis::Source const down = work.y.at(y);
                int const upper = (down.low - y0) * WIDE, lower = (down.high - y0) * WIDE;
                int best = winners[upper + a];
                if (best != winners[upper + b] || best != winners[lower + a] || best != winners[lower + b]) {
                    float const* const v[4] = {corners + (upper + a) * pitch, corners + (upper + b) * pitch,
                                               corners + (lower + a) * pitch, corners + (lower + b) * pitch};
                    float most = 0.0f;
                    for (int c = 0; c < classes; ++c) {
                        float const sum = mixed(mixed(v[0][c], v[1][c], across.weight), mixed(v[2][c], v[3][c], across.weight),
                                                down.weight);
                        if (c == 0 || sum > most) {
                            most = sum;
                            best = c;
                        }
                    }
                }
                labels[int64_t(y) * work.x.out + x] = from_index<Label>(best);
            }
        }
    });
    block.sync();
}

}  // namespace edgesmith
