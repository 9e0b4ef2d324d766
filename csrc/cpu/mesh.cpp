#include <tuple>

#include "cpu/isa.h"
#include "cpu/mesh_setup.h"
#include "cpu/parallel.h"

namespace avatar {

namespace {

constexpr int64_t FACE_BLOCK = 4096;     // faces set up by one thread at a time: .2 ms, far more than handing over
constexpr int64_t VERTEX_BLOCK = 16384;  // likewise

// Number of ones among 16 bits.
inline int count_samples(int32_t bits) {
  bits = bits - (bits >> 1 & 0x5555);
  bits = (bits & 0x3333) + (bits >> 2 & 0x3333);
  bits = (bits + (bits >> 4)) & 0x0F0F;
  return (bits + (bits >> 8)) & 0x1F;
}

DrawTile choose_draw_tile() { return current_isa() >= AVX2 ? draw_tile_avx2 : draw_tile; }

// The pictures of one camera. All outputs are row-major over the picture.
template <typename T>
struct MeshPicture {
  int32_t* face_ids;  // [H, W]
  T* bary;            // [H, W, 3]
  T* depth;           // [H, W]
  T* coverage;        // [H, W]
};

// Pieces by tile: those of tile t are items[starts[t]] .. items[starts[t + 1]], by ascending face id.
struct TileLists {
  std::vector<int64_t> starts;
  std::vector<const MeshPiece*> items;
};

TileLists bin_pieces(const std::vector<std::vector<MeshPiece>>& blocks, int tiles_x, int tiles_y) {
  const auto visit = [&](auto&& body) {
    for (const auto& block : blocks)
      for (const MeshPiece& piece : block) {
        const auto [x0, x1] = std::minmax({piece.x[0], piece.x[1], piece.x[2]});
        const auto [y0, y1] = std::minmax({piece.y[0], piece.y[1], piece.y[2]});
        constexpr int32_t side = MESH_TILE * MESH_SUBPIXEL;
        const int right = std::min(tiles_x - 1, x1 / side), bottom = std::min(tiles_y - 1, y1 / side);
        for (int ty = std::max(0, y0) / side; ty <= bottom; ++ty)
          for (int tx = std::max(0, x0) / side; tx <= right; ++tx) body(ty * tiles_x + tx, &piece);
      }
  };
  TileLists lists;
  lists.starts.assign(static_cast<size_t>(tiles_x) * tiles_y + 1, 0);
  visit([&](int tile, const MeshPiece*) { ++lists.starts[tile + 1]; });
  for (size_t t = 1; t < lists.starts.size(); ++t) lists.starts[t] += lists.starts[t - 1];
  lists.items.resize(lists.starts.back());
  std::vector<int64_t> next(lists.starts.begin(), lists.starts.end() - 1);
  visit([&](int tile, const MeshPiece* piece) { lists.items[next[tile]++] = piece; });
  return lists;
}

template <typename T>
void resolve_tile(const MeshTile& tile, const std::vector<FacePlanes>& planes, const MeshCamera& camera, int x0, int y0,
                  int columns, int rows, bool sampled, const MeshPicture<T>& out) {
  for (int row = 0; row < rows; ++row) {
    const int64_t line = static_cast<int64_t>(y0 + row) * camera.width + x0;
    for (int column = 0; column < columns; ++column) {
      const int at = row * MESH_TILE + column;
      const int64_t pixel = line + column;
      const bool drawn = tile.inverse_depth[at] > 0;
      double bary[3] = {0, 0, 0}, depth = 0;
      if (drawn) depth = weigh_corners(planes[tile.face_ids[at]], x0 + column + 0.5, y0 + row + 0.5, bary);
      out.face_ids[pixel] = drawn ? tile.face_ids[at] : -1;
      for (int k = 0; k < 3; ++k) out.bary[3 * pixel + k] = static_cast<T>(bary[k]);
      out.depth[pixel] = static_cast<T>(depth);
      out.coverage[pixel] =
          sampled ? static_cast<T>(count_samples(tile.samples[at])) / MESH_SAMPLES : static_cast<T>(drawn);
    }
  }
}

template <typename T>
void draw_mesh(const MeshCamera& camera, const T* verts, int64_t V, const int64_t* faces, int64_t F,
               bool cull_backfaces, bool sampled, const MeshPicture<T>& out) {
  std::vector<MeshVertex> placed(V);
  parallel_blocks(V, VERTEX_BLOCK, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) placed[i] = mesh_vertex(camera, verts + 3 * i);
  });

  std::vector<FacePlanes> planes(F);
  std::vector<std::vector<MeshPiece>> blocks((F + FACE_BLOCK - 1) / FACE_BLOCK);
  parallel_blocks(F, FACE_BLOCK, [&](int64_t begin, int64_t end) {
    std::vector<MeshPiece>& pieces = blocks[begin / FACE_BLOCK];
    pieces.reserve(end - begin);
    for (int64_t f = begin; f < end; ++f)
      add_face(camera, placed.data(), faces + 3 * f, static_cast<int32_t>(f), cull_backfaces, pieces, planes[f]);
  });

  const int tiles_x = (camera.width + MESH_TILE - 1) / MESH_TILE, tiles_y = (camera.height + MESH_TILE - 1) / MESH_TILE;
  const TileLists lists = bin_pieces(blocks, tiles_x, tiles_y);
  const DrawTile draw = choose_draw_tile();
  parallel_items(tiles_x * tiles_y, [&](int64_t t) {
    const int x0 = static_cast<int>(t % tiles_x) * MESH_TILE, y0 = static_cast<int>(t / tiles_x) * MESH_TILE;
    const int columns = std::min(MESH_TILE, camera.width - x0), rows = std::min(MESH_TILE, camera.height - y0);
    MeshTile tile;
    std::fill(std::begin(tile.inverse_depth), std::end(tile.inverse_depth), 0.0f);
    if (sampled) std::fill(std::begin(tile.samples), std::end(tile.samples), 0);
    draw(lists.items.data() + lists.starts[t], lists.starts[t + 1] - lists.starts[t], x0, y0, columns, rows, sampled,
         tile);
    resolve_tile(tile, planes, camera, x0, y0, columns, rows, sampled, out);
  });
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> rasterize_typed(const Tensor& verts, const Tensor& faces,
                                                           const Tensor& viewmats, const Tensor& Ks, int64_t width,
                                                           int64_t height, double near, bool cull_backfaces,
                                                           bool sampled) {
  const int64_t C = viewmats.size(0), V = verts.size(1), F = faces.size(0);
  Tensor face_ids = empty<int32_t>(verts, {C, height, width}), bary = empty<T>(verts, {C, height, width, 3}),
         depth = empty<T>(verts, {C, height, width}), coverage = empty<T>(verts, {C, height, width});
  const T *vert = verts.const_data_ptr<T>(), *viewmat = viewmats.const_data_ptr<T>(), *K = Ks.const_data_ptr<T>();
  const int64_t* face = faces.const_data_ptr<int64_t>();
  int32_t* id_out = face_ids.mutable_data_ptr<int32_t>();
  T *bary_out = bary.mutable_data_ptr<T>(), *depth_out = depth.mutable_data_ptr<T>(),
    *coverage_out = coverage.mutable_data_ptr<T>();
  const int64_t step = verts.size(0) == 1 ? 0 : 3 * V, area = width * height;
  const auto picture = [&](int64_t c) {
    draw_mesh<T>(mesh_camera(viewmat + 16 * c, K + 9 * c, width, height, near), vert + c * step, V, face, F,
                 cull_backfaces, sampled,
                 {id_out + c * area, bary_out + 3 * c * area, depth_out + c * area, coverage_out + c * area});
  };
  // Pictures side by side keep all threads busy to the end; fewer pictures than threads share their tiles instead.
  if (C >= static_cast<int64_t>(torch::stable::get_num_threads()))
    parallel_items(C, picture);
  else
    for (int64_t c = 0; c < C; ++c) picture(c);
  return {bary, depth, coverage, face_ids};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> rasterize_mesh_cpu(Tensor verts,     // [B, V, 3], B = C or 1
                                                              Tensor faces,     // [F, 3] int64
                                                              Tensor viewmats,  // [C, 4, 4]
                                                              Tensor Ks,        // [C, 3, 3]
                                                              int64_t width, int64_t height, double near,
                                                              bool cull_backfaces, int64_t samples) {
  check_mesh("rasterize_mesh", verts, faces, viewmats, Ks, width, height, near, samples);
  return verts.scalar_type() == ScalarType::Double
             ? rasterize_typed<double>(verts, faces, viewmats, Ks, width, height, near, cull_backfaces, samples > 1)
             : rasterize_typed<float>(verts, faces, viewmats, Ks, width, height, near, cull_backfaces, samples > 1);
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) { m.impl("rasterize_mesh", TORCH_BOX(&rasterize_mesh_cpu)); }

}  // namespace avatar
