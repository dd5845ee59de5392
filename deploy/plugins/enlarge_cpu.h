// EnlargeArgmax for processors: what enlarge_argmax.h proves, written for vectors and a few threads. Host only.
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

#include "axis.h"

namespace edgesmith {

/// Logits (classes, h, w) in fp32 planes -> labels (H, W). Scratch memory is kept between calls; one object a thread.
class EnlargeOnCpu {
public:
    EnlargeOnCpu(int classes, Axis y, Axis x, int threads) : classes_(classes), y_(y), x_(x), threads_(std::max(1, threads)) {
        winners_.resize(std::size_t(y.in) * std::size_t(x.in));
        workers_.resize(std::size_t(threads_));
        for (int cell = 0; cell <= y.in; ++cell) rows_.push_back(y.first(cell));
        for (int cell = 0; cell <= x.in; ++cell) cols_.push_back(x.first(cell));
        for (int i = 0; i < x.out; ++i) across_.push_back(x.at(i).weight);
        across_.resize(across_.size() + SPAN, 0.0f);
        for (Worker& w : workers_) w = Worker(classes, x.in, x.out);
    }

    void operator()(float const* logits, uint8_t* labels) {
        shared_out(y_.in, [&](int first, int last, Worker& w) { find_winners(logits, first, last, w); });
        shared_out(y_.in, [&](int first, int last, Worker& w) {
            for (int cell = first; cell < last; ++cell) label_cells(logits, labels, cell, w);
        });
    }

private:
    static constexpr int SPAN = 8;  // outputs that are summed at once

    struct Worker {
        Worker() = default;
        Worker(int classes, int in, int out)
            : best(std::size_t(in)), at(std::size_t(in)), corners(4 * std::size_t(classes)), left(std::size_t(classes)),
              right(std::size_t(classes)), candidates(std::size_t(classes)), run(std::size_t(out)) {}
        std::vector<float> best;
        std::vector<int> at;
        std::vector<float> corners;  // (4, classes)
        std::vector<float> left, right;
        std::vector<int> candidates;
        std::vector<uint8_t> run;
    };

    template <class F>
    void shared_out(int count, F f) {
        int const each = parts(count, threads_);
        std::vector<std::thread> others;
        for (int i = 1; i < threads_ && i * each < count; ++i)
            others.emplace_back([this, i, each, count, f] { f(i * each, std::min(count, (i + 1) * each), workers_[std::size_t(i)]); });
        f(0, std::min(count, each), workers_[0]);
        for (std::thread& t : others) t.join();
    }

    void find_winners(float const* logits, int first, int last, Worker& w) {
        int const width = x_.in;
        std::size_t const plane = std::size_t(y_.in) * std::size_t(width);
        for (int y = first; y < last; ++y) {
            float const* const row = logits + std::size_t(y) * std::size_t(width);
            float* const best = w.best.data();
            int* const at = w.at.data();
            std::copy_n(row, width, best);
            std::fill_n(at, width, 0);
            for (int c = 1; c < classes_; ++c) {
                float const* const v = row + std::size_t(c) * plane;
                for (int x = 0; x < width; ++x) {
                    bool const more = v[x] > best[x];
                    best[x] = more ? v[x] : best[x];
                    at[x] = more ? c : at[x];
                }
            }
            std::transform(at, at + width, winners_.data() + std::size_t(y) * std::size_t(width),
                           [](int c) { return uint8_t(c); });
        }
    }

    /// All outputs in the cells of row `cell`.
    void label_cells(float const* logits, uint8_t* labels, int cell, Worker& w) {
        int const top = rows_[std::size_t(cell)], bottom = rows_[std::size_t(cell) + 1];
        if (top == bottom) return;
        std::size_t const width = std::size_t(x_.in), out = std::size_t(x_.out);
        uint8_t const* const upper = winners_.data() + std::size_t(cell) * width;
        uint8_t const* const lower = winners_.data() + std::size_t(std::min(cell + 1, y_.in - 1)) * width;
        // First what needs no sum: one row of labels, copied to each row of the cells. Then the other cells over it.
        for (std::size_t x = 0; x < width; ++x)
            std::fill(w.run.data() + cols_[x], w.run.data() + cols_[x + 1], upper[x]);
        for (int y = top; y < bottom; ++y) std::copy(w.run.begin(), w.run.end(), labels + std::size_t(y) * out);
        for (std::size_t x = 0; x < width; ++x) {
            std::size_t const next = std::min(x + 1, width - 1);
            uint8_t const found[4] = {upper[x], upper[next], lower[x], lower[next]};
            if (found[0] != found[1] || found[0] != found[2] || found[0] != found[3])
                label_cell(logits, labels, cell, int(x), found, w);
        }
    }

    void label_cell(float const* logits, uint8_t* labels, int cell_y, int cell_x, uint8_t const* winners, Worker& w) {
        int const below = std::min(cell_y + 1, y_.in - 1), right = std::min(cell_x + 1, x_.in - 1);
        std::size_t const plane = std::size_t(y_.in) * std::size_t(x_.in);
        int const at[4] = {cell_y * x_.in + cell_x, cell_y * x_.in + right, below * x_.in + cell_x, below * x_.in + right};
        float* v[4];
        for (int i = 0; i < 4; ++i) {
            v[i] = w.corners.data() + i * classes_;
            for (int c = 0; c < classes_; ++c) v[i][c] = logits[std::size_t(c) * plane + std::size_t(at[i])];
        }
        int const count = find_candidates(v, winners, w.candidates.data());
        int const first = cols_[std::size_t(cell_x)], last = cols_[std::size_t(cell_x) + 1];
        for (int y = rows_[std::size_t(cell_y)]; y < rows_[std::size_t(cell_y) + 1]; ++y) {
            float const down = y_.at(y).weight;
            for (int i = 0; i < count; ++i) {
                int const c = w.candidates[std::size_t(i)];
                w.left[std::size_t(i)] = mixed(v[0][c], v[2][c], down);
                w.right[std::size_t(i)] = mixed(v[1][c], v[3][c], down);
            }
            uint8_t* const row = labels + std::size_t(y) * std::size_t(x_.out);
            for (int x = first; x < last; x += SPAN) {
                uint8_t found[SPAN];
                label_span(across_.data() + x, count, w, found);
                std::copy_n(found, std::min(SPAN, last - x), row + x);
            }
        }
    }

    /// Classes that no winner precedes at all four corners, in order.
    int find_candidates(float const* const* v, uint8_t const* winners, int* candidates) const {
        int count = 0;
        for (int c = 0; c < classes_; ++c) {
            bool beaten = false;
            for (int i = 0; i < 4 && !beaten; ++i) {
                int const k = winners[i];
                beaten = k != c;
                for (int corner = 0; corner < 4 && beaten; ++corner)
                    beaten = v[corner][k] > v[corner][c] || (v[corner][k] == v[corner][c] && k < c);
            }
            if (!beaten) candidates[count++] = c;
        }
        return count;
    }

    void label_span(float const* weights, int count, Worker const& w, uint8_t* found) const {
        float most[SPAN];
        int best[SPAN];
        for (int x = 0; x < SPAN; ++x) {
            most[x] = mixed(w.left[0], w.right[0], weights[x]);
            best[x] = w.candidates[0];
        }
        for (int i = 1; i < count; ++i) {
            float const a = w.left[std::size_t(i)], b = w.right[std::size_t(i)];
            int const c = w.candidates[std::size_t(i)];
            for (int x = 0; x < SPAN; ++x) {
                float const sum = mixed(a, b, weights[x]);
                bool const more = sum > most[x];
                most[x] = more ? sum : most[x];
                best[x] = more ? c : best[x];
            }
        }
        for (int x = 0; x < SPAN; ++x) found[x] = uint8_t(best[x]);
    }

    int classes_;
    Axis y_, x_;
    int threads_;
    std::vector<uint8_t> winners_;  // (h, w)
    std::vector<int> rows_, cols_;  // where each cell's outputs begin
    std::vector<float> across_;     // weight of each output column
    std::vector<Worker> workers_;
};

}  // namespace edgesmith
