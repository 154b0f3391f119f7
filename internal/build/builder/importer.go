package builder

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/bulwark-paas/bulwark"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// limits bound what an imported image may be.
type limits struct {
	entries int   // of the archive, and of each layer
	archive int64 // bytes of all blobs
	files   int64 // bytes of all layers when unpacked
	layers  int
}

func importLimits() limits {
	return limits{entries: 1_000_000, archive: 4 << 30, files: 10 << 30, layers: 127}
}

// importImage puts the image of an OCI archive (what "docker save" and "skopeo copy … oci-archive:" write) into the
// output store.
//
// Nothing of the archive ever becomes a path: its entries must have the names that an OCI layout has, and blobs go into
// the store under the digest that their content has. Every layer is read through to its end here, in a process that may be
// lost, so that a bomb, a device or a path with ".." is found before anybody unpacks it.
func importImage(ctx context.Context, job *job, ev *events) (*bulwark.BuildResult, error) {
	ev.stage("import")
	ev.heading("Importing an image")
	f, err := os.Open(job.Import)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	store, err := newStore(job.Output)
	if err != nil {
		return nil, err
	}
	im := &importer{store: store, limits: importLimits()}
	if err := im.archive(ctx, f); err != nil {
		return nil, err
	}
	desc, manifest, err := im.choose(ctx, im.index.Manifests, 0)
	if err != nil {
		return nil, err
	}
	if err := im.check(ctx, manifest); err != nil {
		return nil, err
	}
	ev.note(fmt.Sprintf("%s, %d layers", desc.Digest, len(manifest.Layers)))
	ev.note("Processes from the image:")
	plan := bulwark.Plan{Planner: "import"}
	d, err := finishImage(ctx, store, bulwark.Digest(desc.Digest), &plan, "Give it a CMD or an ENTRYPOINT.", ev)
	if err != nil {
		return nil, err
	}
	return &bulwark.BuildResult{Image: d, Plan: plan}, nil
}

type importer struct {
	store  content.Store
	limits limits
	index  ocispecs.Index
}

func bad(format string, args ...any) error {
	return bulwark.Invalid(fmt.Sprintf("The image archive is refused: "+format+".", args...), "Make it with \"docker save\" or \"skopeo copy docker://… oci-archive:FILE\".")
}

func tooLarge(format string, args ...any) error {
	return bulwark.Fail(bulwark.KindTooLarge, fmt.Sprintf("The image archive is refused: "+format+".", args...), "", nil)
}

// archive reads the archive and stores its blobs.
func (im *importer) archive(ctx context.Context, r io.Reader) error {
	t := tar.NewReader(r)
	left, indexed := im.limits.archive, false
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return bulwark.Fail(bulwark.KindInvalid, "The image archive is refused: it is not a tar file that is whole.", "It must not be compressed.", err)
		}
		if n > im.limits.entries {
			return tooLarge("it has more than %d entries", im.limits.entries)
		}
		if h.Typeflag == tar.TypeDir {
			continue
		}
		if h.Typeflag != tar.TypeReg {
			return bad("%+q is not a file", short(h.Name))
		}
		if left -= h.Size; left < 0 {
			return tooLarge("it is larger than %d GiB", im.limits.archive>>30)
		}
		name := strings.TrimPrefix(h.Name, "./")
		switch blob, isBlob := strings.CutPrefix(name, "blobs/sha256/"); {
		case isBlob:
			if err := im.blob(ctx, blob, h.Size, t); err != nil {
				return err
			}
		case name == "index.json":
			b, err := io.ReadAll(io.LimitReader(t, maxDocument))
			if err != nil || json.Unmarshal(b, &im.index) != nil {
				return bad("its index.json is not well formed")
			}
			indexed = true
		case name == "oci-layout", name == "manifest.json", name == "repositories":
		default:
			return bad("%+q is no part of an OCI image layout", short(h.Name))
		}
	}
	if !indexed {
		return bad("it has no index.json, so it is no OCI image layout")
	}
	return nil
}

// blob stores one blob; the store refuses content that has another digest.
func (im *importer) blob(ctx context.Context, hex string, size int64, r io.Reader) error {
	d, err := bulwark.ParseDigest("sha256:" + hex)
	if err != nil {
		return bad("%+q is not the name of a blob", short(hex))
	}
	desc := ocispecs.Descriptor{Digest: digest.Digest(d), Size: size}
	err = content.WriteBlob(ctx, im.store, hex, r, desc)
	if errdefs.IsFailedPrecondition(err) || errors.Is(err, io.ErrUnexpectedEOF) {
		return bad("the content of the blob %s… is not what its name says", hex[:12])
	}
	return err
}

// choose finds the manifest for the platform, at most two indexes deep.
func (im *importer) choose(ctx context.Context, list []ocispecs.Descriptor, depth int) (ocispecs.Descriptor, *ocispecs.Manifest, error) {
	var none ocispecs.Descriptor
	var found []ocispecs.Descriptor
	for _, d := range list {
		if d.Platform == nil || d.Platform.OS == platform.OS && d.Platform.Architecture == platform.Architecture {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return none, nil, bad("it holds %d images for linux/amd64, not one", len(found))
	}
	d := found[0]
	if _, err := bulwark.ParseDigest(string(d.Digest)); err != nil {
		return none, nil, bad("its index names a digest that is not well formed")
	}
	switch {
	case images.IsIndexType(d.MediaType) && depth < 2:
		var index ocispecs.Index
		if err := im.read(ctx, d, &index); err != nil {
			return none, nil, err
		}
		return im.choose(ctx, index.Manifests, depth+1)
	case images.IsManifestType(d.MediaType):
		var m ocispecs.Manifest
		err := im.read(ctx, d, &m)
		return d, &m, err
	}
	return none, nil, bad("it holds something of the type %+q, not an image", short(d.MediaType))
}

func (im *importer) read(ctx context.Context, d ocispecs.Descriptor, v any) error {
	err := readBlob(ctx, im.store, d, v)
	if errdefs.IsNotFound(err) {
		return bad("the blob %s is missing", short(string(d.Digest)))
	}
	return err
}

// check reads the configuration and every layer.
func (im *importer) check(ctx context.Context, m *ocispecs.Manifest) error {
	var config ocispecs.Image
	for _, d := range append([]ocispecs.Descriptor{m.Config}, m.Layers...) {
		if _, err := bulwark.ParseDigest(string(d.Digest)); err != nil {
			return bad("its manifest names a digest that is not well formed")
		}
	}
	if err := im.read(ctx, m.Config, &config); err != nil {
		return err
	}
	if config.OS != platform.OS || config.Architecture != platform.Architecture {
		return bad("it is for %s/%s, not for linux/amd64", short(config.OS), short(config.Architecture))
	}
	if len(m.Layers) == 0 || len(m.Layers) > im.limits.layers || len(config.RootFS.DiffIDs) != len(m.Layers) {
		return bad("it has %d layers and %d digests of layers; there must be 1 to %d of both", len(m.Layers), len(config.RootFS.DiffIDs), im.limits.layers)
	}
	left := im.limits.files
	for i, l := range m.Layers {
		if !images.IsLayerType(l.MediaType) {
			return bad("layer %d has the type %+q", i+1, short(l.MediaType))
		}
		if err := im.layer(ctx, i+1, l, config.RootFS.DiffIDs[i], &left); err != nil {
			return err
		}
	}
	return nil
}

// layer unpacks one layer into nothing.
func (im *importer) layer(ctx context.Context, n int, l ocispecs.Descriptor, want digest.Digest, left *int64) error {
	ra, err := im.store.ReaderAt(ctx, l)
	if errdefs.IsNotFound(err) {
		return bad("layer %d is missing", n)
	}
	if err != nil {
		return err
	}
	defer ra.Close()
	plain, err := compression.DecompressStream(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return bad("layer %d cannot be unpacked", n)
	}
	defer plain.Close()
	sum := digest.Canonical.Digester()
	bounded := &boundedReader{r: io.TeeReader(plain, sum.Hash()), left: left}
	err = checkLayer(tar.NewReader(bounded), im.limits.entries)
	if err == nil {
		_, err = io.Copy(io.Discard, bounded)
	}
	switch {
	case *left < 0:
		return tooLarge("its layers are larger than %d GiB when unpacked", im.limits.files>>30)
	case err != nil:
		if be, ok := errors.AsType[*bulwark.Error](err); ok {
			return be
		}
		return bad("layer %d is not a tar file that is whole", n)
	case sum.Digest() != want:
		return bad("layer %d is not the one that the configuration names", n)
	}
	return nil
}

// checkLayer refuses what no image needs: devices, and names that lead out of the root. Symbolic links may lead anywhere,
// as in every image: they are resolved inside the instance.
func checkLayer(t *tar.Reader, most int) error {
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n > most {
			return tooLarge("a layer has more than %d files", most)
		}
		for _, name := range []string{h.Name, linkOf(h)} {
			clean := path.Clean("/" + name)
			if strings.ContainsRune(name, 0) || hasDotDot(name) || len(clean) > 4096 {
				return bad("a layer holds the path %+q", short(name))
			}
		}
		switch h.Typeflag {
		case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
			return bad("a layer holds the device or pipe %+q", short(h.Name))
		}
	}
}

// linkOf returns what a hard link leads to: a path of the image, unlike a symbolic link's text.
func linkOf(h *tar.Header) string {
	if h.Typeflag == tar.TypeLink {
		return h.Linkname
	}
	return ""
}

func hasDotDot(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return true
		}
	}
	return false
}

// boundedReader ends with an error when what is left falls below zero.
type boundedReader struct {
	r    io.Reader
	left *int64
}

// Read implements [io.Reader].
func (b *boundedReader) Read(p []byte) (int, error) {
	if *b.left < 0 {
		return 0, errors.New("too large")
	}
	n, err := b.r.Read(p)
	*b.left -= int64(n)
	return n, err
}
