package trafficgpt

// #include <stdlib.h>
// #include <trafficgpt.h>
// #cgo noescape tgpt_classify
// #cgo nocallback tgpt_classify
// #cgo noescape tgpt_embed
// #cgo nocallback tgpt_embed
import "C"

import (
	"context"
	"unsafe"
)

// A Classifier tells what flows are.
type Classifier struct {
	handle *handle[*C.tgpt_classifier]
	shared *shared
	labels []string
	engine string
	dim    int
}

// A Verdict is what the classifier says of one flow.
type Verdict struct {
	Label       uint32  // index into Labels, or Unknown
	Name        string  // name of the label, or "unknown"
	Probability float32 // of the most probable label, also where that was not enough
}

// OpenClassifier opens the classifier of the bundle at path.
func (c *Context) OpenClassifier(path string) (*Classifier, error) {
	bundle := C.CString(path)
	defer C.free(unsafe.Pointer(bundle))
	var out *C.tgpt_classifier
	err := c.open(func(context *C.tgpt_context) error {
		var e C.tgpt_error
		return failure(C.tgpt_classifier_open(context, bundle, &out, &e), &e)
	})
	if err != nil {
		return nil, err
	}
	labels := make([]string, C.tgpt_classifier_n_labels(out))
	for i := range labels {
		labels[i] = C.GoString(C.tgpt_classifier_label(out, C.uint32_t(i)))
	}
	return &Classifier{
		handle: newHandle(out, func(p *C.tgpt_classifier) { C.tgpt_classifier_free(p) }),
		shared: c.shared,
		labels: labels,
		engine: C.GoString(C.tgpt_classifier_engine(out)),
		dim:    int(C.tgpt_classifier_embedding_dim(out)),
	}, nil
}

// Close frees the classifier when the calls on it have returned.
func (c *Classifier) Close() error {
	if c.handle.close() {
		c.shared.release()
	}
	return nil
}

// Labels are the names of the labels.
func (c *Classifier) Labels() []string { return append([]string(nil), c.labels...) }

// Engine is who runs the network: "native" or "onnx".
func (c *Classifier) Engine() string { return c.engine }

// EmbeddingDim is the length of an embedding.
func (c *Classifier) EmbeddingDim() int { return c.dim }

// Classify tells what each flow of the batch is.
func (c *Classifier) Classify(batch Batch) ([]Verdict, error) {
	n, k := batch.Len(), len(c.labels)
	labels, scores := make([]uint32, n), make([]float32, n*k)
	if err := c.ClassifyInto(batch, labels, scores); err != nil {
		return nil, err
	}
	return c.verdicts(make([]Verdict, 0, n), labels, scores), nil
}

// ClassifyContext does what Classify does, in pieces. When ctx is done it returns its error, and the verdicts of the flows
// that were classified until then.
func (c *Classifier) ClassifyContext(ctx context.Context, batch Batch) ([]Verdict, error) {
	n, k := batch.Len(), len(c.labels)
	verdicts := make([]Verdict, 0, n)
	labels, scores := make([]uint32, min(n, piece)), make([]float32, min(n, piece)*k)
	err := batch.pieces(ctx, func(part Batch) error {
		m := part.Len()
		if err := c.ClassifyInto(part, labels[:m], scores[:m*k]); err != nil {
			return err
		}
		verdicts = c.verdicts(verdicts, labels[:m], scores[:m*k])
		return nil
	})
	return verdicts, err
}

// verdicts appends what labels and scores say.
func (c *Classifier) verdicts(verdicts []Verdict, labels []uint32, scores []float32) []Verdict {
	k := len(c.labels)
	for i, label := range labels {
		verdict := Verdict{Label: label, Name: "unknown"}
		if label != Unknown {
			verdict.Name = c.labels[label]
		}
		for _, score := range scores[i*k : (i+1)*k] {
			verdict.Probability = max(verdict.Probability, score)
		}
		verdicts = append(verdicts, verdict)
	}
	return verdicts
}

// ClassifyInto writes the label of each flow to labels and the probability of every label to scores, one row per flow,
// and allocates nothing. scores may be nil. On error nothing is written.
func (c *Classifier) ClassifyInto(batch Batch, labels []uint32, scores []float32) error {
	n := batch.Len()
	if len(labels) != n || (scores != nil && len(scores) != n*len(c.labels)) {
		return invalid("room for %d labels and %d scores; %d flows need %d and %d", len(labels), len(scores), n, n,
			n*len(c.labels))
	}
	return c.call(batch, func(p *C.tgpt_classifier, w *C.tgpt_worker) error {
		packets, offsets, n := batch.c()
		var e C.tgpt_error
		return failure(C.tgpt_classify(p, w, packets, offsets, n, (*C.uint32_t)(memory(labels)),
			(*C.float)(memory(scores)), &e), &e)
	})
}

// Embed gives the embedding of each flow, one row of EmbeddingDim values per flow.
func (c *Classifier) Embed(batch Batch) ([]float32, error) {
	embeddings := make([]float32, batch.Len()*c.dim)
	err := c.call(batch, func(p *C.tgpt_classifier, w *C.tgpt_worker) error {
		packets, offsets, n := batch.c()
		var e C.tgpt_error
		return failure(C.tgpt_embed(p, w, packets, offsets, n, (*C.float)(memory(embeddings)), &e), &e)
	})
	if err != nil {
		return nil, err
	}
	return embeddings, nil
}

func (c *Classifier) call(batch Batch, f func(*C.tgpt_classifier, *C.tgpt_worker) error) error {
	if err := batch.check(); err != nil {
		return err
	}
	return c.handle.use(func(p *C.tgpt_classifier) error {
		return c.shared.withWorker(func(w *C.tgpt_worker) error { return f(p, w) })
	})
}
