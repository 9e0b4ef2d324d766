// The mesh rasteriser as PyTorch3D's naive CPU path is built: every pixel looks at every face, one thread, scalar. It
// is the yardstick of the benchmark and the second opinion of the tests.
#include <tuple>

#include "cpu/mesh_setup.h"

namespace avatar {

namespace {

struct Box {
  int32_t x0, x1, y0, y1;  // 1/256 pixel
};

bool covers(const MeshPiece& piece, int64_t x, int64_t y) {
  for (int k = 0; k < 3; ++k) {
    const int next = (k + 1) % 3;
    const int64_t a = piece.y[k] - piece.y[next], b = piece.x[next] - piece.x[k];
    const int64_t value = a * (x - piece.x[k]) + b * (y - piece.y[k]);
    if (value < 0 || (value == 0 && !(a > 0 || (a == 0 && b > 0)))) return false;
  }
  return true;
}

template <typename T>
void draw_naive(const MeshCamera& camera, const T* verts, int64_t V, const int64_t* faces, int64_t F,
                bool cull_backfaces, int64_t samples, int32_t* face_ids, T* bary, T* depth, T* coverage) {
  std::vector<MeshVertex> placed(V);
  for (int64_t i = 0; i < V; ++i) placed[i] = mesh_vertex(camera, verts + 3 * i);
  std::vector<FacePlanes> planes(F);
  std::vector<MeshPiece> pieces;
  for (int64_t f = 0; f < F; ++f)
    add_face(camera, placed.data(), faces + 3 * f, static_cast<int32_t>(f), cull_backfaces, pieces, planes[f]);
  std::vector<Box> boxes;
  for (const MeshPiece& piece : pieces) {
    const auto [x0, x1] = std::minmax({piece.x[0], piece.x[1], piece.x[2]});
    const auto [y0, y1] = std::minmax({piece.y[0], piece.y[1], piece.y[2]});
    boxes.push_back({x0, x1, y0, y1});
  }
  // Visits every piece whose box holds the sample and that covers it.
  const auto visit = [&](int32_t x, int32_t y, auto&& body) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Box& box = boxes[i];
      if (x < box.x0 || x > box.x1 || y < box.y0 || y > box.y1) continue;
      if (covers(pieces[i], x, y)) body(pieces[i]);
    }
  };
  for (int row = 0; row < camera.height; ++row)
    for (int column = 0; column < camera.width; ++column) {
      const int32_t x = column * MESH_SUBPIXEL + MESH_SUBPIXEL / 2, y = row * MESH_SUBPIXEL + MESH_SUBPIXEL / 2;
      const int64_t pixel = static_cast<int64_t>(row) * camera.width + column;
      double nearest = HUGE_VAL, weights[3] = {0, 0, 0};
      int32_t id = -1;
      visit(x, y, [&](const MeshPiece& piece) {
        double mine[3];
        const double z = weigh_corners(planes[piece.face], column + 0.5, row + 0.5, mine);
        if (z >= nearest) return;
        nearest = z;
        id = piece.face;
        std::copy(mine, mine + 3, weights);
      });
      face_ids[pixel] = id;
      depth[pixel] = static_cast<T>(id < 0 ? 0.0 : nearest);
      for (int k = 0; k < 3; ++k) bary[3 * pixel + k] = static_cast<T>(weights[k]);
      int hits = id >= 0;
      if (samples > 1) {
        hits = 0;
        for (int s = 0; s < MESH_SAMPLES; ++s) {
          bool hit = false;
          visit(x + MESH_SAMPLE_X[s] * MESH_SAMPLE_STEP, y + MESH_SAMPLE_Y[s] * MESH_SAMPLE_STEP,
                [&](const MeshPiece&) { hit = true; });
          hits += hit;
        }
      }
      coverage[pixel] = static_cast<T>(hits) / static_cast<T>(samples);
    }
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> naive_typed(const Tensor& verts, const Tensor& faces, const Tensor& viewmats,
                                                       const Tensor& Ks, int64_t width, int64_t height, double near,
                                                       bool cull_backfaces, int64_t samples) {
  const int64_t C = viewmats.size(0), V = verts.size(1), F = faces.size(0), area = width * height;
  Tensor face_ids = empty<int32_t>(verts, {C, height, width}), bary = empty<T>(verts, {C, height, width, 3}),
         depth = empty<T>(verts, {C, height, width}), coverage = empty<T>(verts, {C, height, width});
  for (int64_t c = 0; c < C; ++c)
    draw_naive<T>(mesh_camera(viewmats.const_data_ptr<T>() + 16 * c, Ks.const_data_ptr<T>() + 9 * c, width, height,
                              near),
                  verts.const_data_ptr<T>() + (verts.size(0) == 1 ? 0 : 3 * V * c), V, faces.const_data_ptr<int64_t>(),
                  F, cull_backfaces, samples, face_ids.mutable_data_ptr<int32_t>() + c * area,
                  bary.mutable_data_ptr<T>() + 3 * c * area, depth.mutable_data_ptr<T>() + c * area,
                  coverage.mutable_data_ptr<T>() + c * area);
  return {bary, depth, coverage, face_ids};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> rasterize_mesh_naive_cpu(Tensor verts,     // [B, V, 3], B = C or 1
                                                                    Tensor faces,     // [F, 3] int64
                                                                    Tensor viewmats,  // [C, 4, 4]
                                                                    Tensor Ks,        // [C, 3, 3]
                                                                    int64_t width, int64_t height, double near,
                                                                    bool cull_backfaces, int64_t samples) {
  check_mesh("rasterize_mesh_naive", verts, faces, viewmats, Ks, width, height, near, samples);
  return verts.scalar_type() == ScalarType::Double
             ? naive_typed<double>(verts, faces, viewmats, Ks, width, height, near, cull_backfaces, samples)
             : naive_typed<float>(verts, faces, viewmats, Ks, width, height, near, cull_backfaces, samples);
}

STABLE_TORCH_LIBRARY_IMPL(avatar, CPU, m) { m.impl("rasterize_mesh_naive", TORCH_BOX(&rasterize_mesh_naive_cpu)); }

}  // namespace avatar
