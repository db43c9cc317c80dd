// Squeeze-and-excitation: a cluster of kCluster blocks for one image, each with its channels of its pixels, which stay in
// registers. What a block's channels and pixels give to the hidden channels goes to all others; the first product is
// linear, so that this is all that blocks tell each other. The second one makes the gates of the block's own channels.

typedef vec_t<element_t, kVector> pack_t;
typedef vec_t<element_t, kInnerVector> inner_t;
constexpr int kAbreast = kThreads / kHiddenLanes;    // hidden channels that are summed at once
constexpr int kFirstRounds = (kHidden + kAbreast - 1) / kAbreast;
constexpr int kFirstLoads = (kColumns + kHiddenLanes - 1) / kHiddenLanes;
constexpr int kBeside = kThreads / kSumLanes;        // channels that are summed at once
constexpr int kSecondRounds = (kSlice + kBeside - 1) / kBeside;
constexpr int kInner = kHidden / kInnerVector;
constexpr int kSecondLoads = (kInner + kSumLanes - 1) / kSumLanes;

template <int kLanes> INGOT_INLINE float sum_of_lanes(float x) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

INGOT_INLINE void run_excite(const element_t* x, const element_t* w1, const element_t* b1, const element_t* w2,
                             const element_t* b2, element_t* y) {
  INGOT_DYNAMIC_SHARED(unsigned char, base);
  float* const sums = (float*)(base + kSums);              // [kRows][kSlice]
  float* const means = (float*)(base + kMeans);            // [kSlice], of a part of the pixels that part of the mean
  float* const got = (float*)(base + kGot);                // [kCluster][kHidden]
  float* const hidden = (float*)(base + kHiddens);         // [kHidden]
  float* const gates = (float*)(base + kGates);            // [kSlice]
  float* const bias1 = (float*)(base + kBias1);            // [kHidden]
  float* const bias2 = (float*)(base + kBias2);            // [kSlice]
  const int thread = (int)threadIdx.x;
  const int rank = (int)cluster_rank(), image = (int)blockIdx.x / kCluster;
  const int channel = rank % kSlices * kSlice, left = kChannels - channel;
  const int count = left < 0 ? 0 : (left < kSlice ? left : kSlice);
  others_arrive();

  // Weights are no other kernel's result: they are here when the image is.
  const int hidden_lane = thread % kHiddenLanes, sum_lane = thread % kSumLanes;
  pack_t first[kFirstRounds][kFirstLoads];
  inner_t second[kSecondRounds][kSecondLoads];
#pragma unroll
  for (int round = 0; round < kFirstRounds; ++round)
#pragma unroll
    for (int k = 0; k < kFirstLoads; ++k) {
      const int s = round * kAbreast + thread / kHiddenLanes, at = (k * kHiddenLanes + hidden_lane) * kVector;
      first[round][k] = pack_t{};
      if (s < kHidden && at < count) first[round][k] = load_vec<kVector>(w1 + s * kChannels + channel + at);
    }
#pragma unroll
  for (int round = 0; round < kSecondRounds; ++round)
#pragma unroll
    for (int k = 0; k < kSecondLoads; ++k) {
      const int c = round * kBeside + thread / kSumLanes, at = k * kSumLanes + sum_lane;
      second[round][k] = inner_t{};
      if (c < count && at < kInner)
        second[round][k] = load_vec<kInnerVector>(w2 + (channel + c) * kHidden + at * kInnerVector);
    }
  for (int i = thread; i < kHidden; i += kThreads) bias1[i] = kFirstBias ? (float)b1[i] : 0.0f;
  for (int i = thread; i < count; i += kThreads) bias2[i] = kSecondBias ? (float)b2[channel + i] : 0.0f;
  pdl_wait();
  pdl_trigger();

  const int column = thread % kColumns, row = thread / kColumns;
  const int begin = rank / kSlices * kChunk, end = begin + kChunk < kPixels ? begin + kChunk : kPixels;
  const bool busy = row < kRows && column * kVector < count;
  const element_t* const from = x + image * kImage + channel + column * kVector;
  pack_t held[kLoads];
  float sum[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) sum[j] = 0.0f;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int p = begin + row + i * kRows;
    held[i] = pack_t{};
    if (busy && p < end) held[i] = load_vec<kVector>(from + p * kPixel);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i)
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum[j] += (float)held[i].v[j];
  if (busy) {
#pragma unroll
    for (int j = 0; j < kVector; j += 4)
      store_vec(sums + row * kSlice + column * kVector + j, vec_t<float, 4>{{sum[j], sum[j + 1], sum[j + 2], sum[j + 3]}});
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kSecondRounds; ++round) {
    const int c = round * kBeside + thread / kSumLanes;
    float total = 0.0f;
    if (c < count) {
#pragma unroll 16
      for (int r = sum_lane; r < kRows; r += kSumLanes) total += sums[r * kSlice + c];
    }
    total = sum_of_lanes<kSumLanes>(total) * (1.0f / kPixels);
    if (c < kSlice && sum_lane == 0) means[c] = c >= count ? 0.0f : (kParts > 1 ? total : mean_of(total));
  }
  others_wait();  // all blocks of the cluster have begun
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kFirstRounds; ++round) {
    const int s = round * kAbreast + thread / kHiddenLanes;
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < kFirstLoads; ++k) {
      const int at = (k * kHiddenLanes + hidden_lane) * kVector;
      if (at >= kSlice) continue;
#pragma unroll
      for (int j = 0; j < kVector; j += 4) {
        const vec_t<float, 4> mean = load_vec<4>(means + at + j);
#pragma unroll
        for (int i = 0; i < 4; ++i) total = fmaf((float)first[round][k].v[j + i], mean.v[i], total);
      }
    }
    total = sum_of_lanes<kHiddenLanes>(total);
    if (s < kHidden) {
#pragma unroll
      for (int k = hidden_lane; k < kCluster; k += kHiddenLanes) put(got + rank * kHidden + s, k, total);
    }
  }
  others_arrive();
  others_wait();
  for (int s = thread; s < kHidden; s += kThreads) {
    float total = bias1[s];
#pragma unroll
    for (int k = 0; k < kCluster; ++k) total += got[k * kHidden + s];
    hidden[s] = hidden_of(total);
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < kSecondRounds; ++round) {
    const int c = round * kBeside + thread / kSumLanes;
    float total = 0.0f;
#pragma unroll
    for (int k = 0; k < kSecondLoads; ++k) {
      const int at = k * kSumLanes + sum_lane;
      if (at >= kInner) continue;
#pragma unroll
      for (int j = 0; j < kInnerVector; ++j)
        total = fmaf((float)second[round][k].v[j], hidden[at * kInnerVector + j], total);
    }
    total = sum_of_lanes<kSumLanes>(total);
    if (c < count && sum_lane == 0) gates[c] = gate_of(total + bias2[c]);
  }
  __syncthreads();
  if (!busy) return;
  float gate[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) gate[j] = gates[column * kVector + j];
  element_t* const to = y + image * kImageTo + channel + column * kVector;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int p = begin + row + i * kRows;
    if (p >= end) break;
#pragma unroll
    for (int j = 0; j < kVector; ++j) held[i].v[j] = element_t((float)held[i].v[j] * gate[j]);
    store_vec(to + p * kPixelTo, held[i]);
  }
}
