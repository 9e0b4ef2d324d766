// Work on all of torch's threads. Results never depend on how many there are: an item is always computed by one thread,
// in one order, and items share no output.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace avatar {

// body(item) for every item in [0, items), handed out one by one: for items of uneven cost (tiles, frames).
template <typename Body>
void parallel_items(int64_t items, const Body& body) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), items);
  if (threads <= 1) {
    for (int64_t item = 0; item < items; ++item) body(item);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t item = next++; item < items; item = next++) body(item);
  });
}

// body(begin, end) over blocks of a fixed size: for arrays of even cost.
template <typename Body>
void parallel_blocks(int64_t count, int64_t block, const Body& body) {
  parallel_items((count + block - 1) / block,
                 [&](int64_t i) { body(i * block, std::min(count, (i + 1) * block)); });
}

}  // namespace avatar
