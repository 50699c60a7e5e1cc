//! Forward and backward, layer by layer: the steps of `src/gpt2/forward.rs` and `src/gpt2/backward.rs`.

use super::Training;
use super::kernels::Dropout;
use crate::cuda::gpt2::{Epilogue, Factors, Layout, Shape};
use crate::error::Result;
use crate::gpt2::Site;
use crate::gpt2::weights::Block;

impl Training {
    /// Runs the rows that the tape was prepared for through the network, up to the final norm.
    pub(super) fn run_forward(&mut self) -> Result<()> {
        let (device, kernels, parameters, tape) = (&self.device, &self.kernels, &self.parameters, &self.tape);
        let config = parameters.shape.config();
        let (d, layers, epsilon) = (config.n_embd, config.n_layer, config.layer_norm_epsilon);
        let (places, rows) = (tape.places(), &tape.rows);
        let (n, shape) = (rows.n, [rows.n, d]);
        let dropout = Dropout(tape.masks.as_ref());
        let product = |layer: usize, [weight, bias]: [Block; 2], [n_out, k]: [usize; 2], [a, c]: [u64; 2], epilogue| {
            let b = parameters.matrix(parameters.shape.block(layer, weight));
            let bias = parameters.vector(parameters.shape.block(layer, bias));
            let factors = Factors { a, b, layout: Layout::Dense, bias, c };
            kernels.shared.product(device, Shape { m: n, n: n_out, k }, factors, epilogue)
        };

        let inputs = [rows.tokens, rows.positions].map(|list| tape.list(list));
        let tables = [parameters.shape.wte(), parameters.shape.wpe()].map(|range| parameters.vector(range));
        let first = places.layer(0);
        let norm = parameters.norm(parameters.norm_before(0));
        kernels.begin(shape, inputs, tables, norm, epsilon, dropout, [first.x, first.h])?;
        for layer in 0..layers {
            let at = places.layer(layer);
            product(layer, [Block::QkvWeight, Block::QkvBias], [3 * d, d], [at.h, at.qkv], Epilogue::Bias)?;
            let heads = [n, config.n_head, config.head_dim()];
            kernels.attend(heads, [at.qkv, inputs[1]], dropout, layer, [at.attention, at.lse])?;
            let names = [Block::AttnProjWeight, Block::AttnProjBias];
            product(layer, names, [d, d], [at.attention, places.y], Epilogue::Bias)?;
            let (norm, site) = (parameters.norm(parameters.norm_inside(layer)), Site::AttentionOutput { layer });
            kernels.residual(shape, [at.x, places.y], norm, epsilon, dropout, site, [at.middle, at.h_middle])?;

            let names = [Block::FcWeight, Block::FcBias];
            product(layer, names, [4 * d, d], [at.h_middle, at.inner], Epilogue::GeluKept)?;
            let names = [Block::ProjWeight, Block::ProjBias];
            product(layer, names, [d, 4 * d], [at.inner, places.y], Epilogue::Bias)?;
            let (norm, site) = (parameters.norm(parameters.norm_before(layer + 1)), Site::MlpOutput { layer });
            let next = if layer + 1 < layers {
                let next = places.layer(layer + 1);
                [next.x, next.h]
            } else {
                [places.x, places.hidden]
            };
            kernels.residual(shape, [at.middle, places.y], norm, epsilon, dropout, site, next)?;
        }
        Ok(())
    }

    /// Adds the gradient of every weight of the network, from that of the hidden states.
    pub(super) fn run_backward(&mut self) -> Result<()> {
        let (kernels, parameters, tape) = (&self.kernels, &self.parameters, &self.tape);
        let config = parameters.shape.config();
        let (d, layers, epsilon) = (config.n_embd, config.n_layer, config.layer_norm_epsilon);
        let (places, rows) = (tape.places(), &tape.rows);
        let (n, shape) = (rows.n, [rows.n, d]);
        let dropout = Dropout(tape.masks.as_ref());
        let block = |layer, part| parameters.shape.block(layer, part);
        // Of a norm: the stream's gradient, and the gradient of the branch below where its dropout is at `site`.
        let norm_backward = |range: (std::ops::Range<usize>, _), x, dh, fresh, site: Option<Site>| {
            let dy = if site.is_some() { places.y } else { 0 };
            let (weight, out) = (parameters.vector(range.0.clone()), [places.dx, places.stats, dy]);
            kernels.norm_backward(shape, [x, dh], weight, epsilon, fresh, dropout, site, out)?;
            kernels.add_norm([x, dh, places.stats], shape, places.parts, parameters.grad(range.0))
        };
        // Of a product: its weight's gradient and its bias's.
        let gradient = |layer, [weight, bias]: [Block; 2], [k, n_out]: [usize; 2], [input, d_output]: [u64; 2]| {
            let to = parameters.grad(block(layer, bias));
            kernels.add_columns(d_output, false, [n, n_out], places.parts, to)?;
            let to = parameters.grad(block(layer, weight));
            kernels.gradient([input, d_output], [k, n_out, n], k, places.parts, to)
        };
        let through = |layer, weight, [k, n_out]: [usize; 2], d_output, to, epilogue| {
            let weight = parameters.matrix(block(layer, weight));
            kernels.through(d_output, weight, to, Shape { m: n, n: k, k: n_out }, epilogue)
        };

        let last = layers.checked_sub(1).map(|layer| Site::MlpOutput { layer });
        norm_backward(parameters.norm_before(layers), places.x, places.d_hidden, true, last)?;
        for layer in (0..layers).rev() {
            let at = places.layer(layer);
            gradient(layer, [Block::ProjWeight, Block::ProjBias], [4 * d, d], [at.inner, places.y])?;
            through(layer, Block::ProjWeight, [4 * d, d], places.y, at.pre, Epilogue::Slope)?;
            gradient(layer, [Block::FcWeight, Block::FcBias], [d, 4 * d], [at.h_middle, at.pre])?;
            through(layer, Block::FcWeight, [d, 4 * d], at.pre, places.dh, Epilogue::Plain)?;
            let site = Some(Site::AttentionOutput { layer });
            norm_backward(parameters.norm_inside(layer), at.middle, places.dh, false, site)?;

            gradient(layer, [Block::AttnProjWeight, Block::AttnProjBias], [d, d], [at.attention, places.y])?;
            through(layer, Block::AttnProjWeight, [d, d], places.y, places.dh, Epilogue::Plain)?;
            let heads = [n, config.n_head, config.head_dim()];
            let lists = [rows.positions, rows.lasts].map(|list| tape.list(list));
            let inputs = [at.qkv, at.attention, places.dh, at.lse];
            kernels.attend_backward(heads, inputs, lists, dropout, layer, [places.delta, places.d_qkv])?;
            gradient(layer, [Block::QkvWeight, Block::QkvBias], [d, 3 * d], [at.h, places.d_qkv])?;
            through(layer, Block::QkvWeight, [d, 3 * d], places.d_qkv, places.dh, Epilogue::Plain)?;
            let site = layer.checked_sub(1).map(|layer| Site::MlpOutput { layer });
            norm_backward(parameters.norm_before(layer), at.x, places.dh, false, site)?;
        }
        if dropout.is_there() {
            kernels.mask_rows(places.dx, shape, dropout)?;
        }
        let lists = [rows.order, rows.segments, rows.keys, rows.firsts].map(|list| tape.list(list));
        let sizes = [rows.segments.len - 1, rows.keys.len, d];
        // The position embedding follows the token embedding.
        kernels.scatter(places.dx, lists, sizes, places.parts, parameters.grad(parameters.shape.wte()))
    }
}
