package node

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bulwark-paas/bulwark"
	"github.com/bulwark-paas/bulwark/internal/node/images"
	"github.com/bulwark-paas/bulwark/internal/node/ledger"
)

// rootfs mounts the builder's own root for one build.
func (b *builds) rootfs(ctx context.Context, target string, uid uint32) error {
	layout := filepath.Join(b.config.Bases, "builder")
	digest, err := layoutDigest(layout)
	if err != nil {
		return err
	}
	layers, err := b.base(ctx, layout, digest)
	if err != nil {
		return err
	}
	return b.images.Mount(ctx, layers, images.Platform{}, uid, target)
}

// base has the builder's own image admitted, once.
func (b *builds) base(ctx context.Context, layout string, digest bulwark.Digest) ([]ledger.Layer, error) {
	b.baseMu.Lock()
	defer b.baseMu.Unlock()
	defer b.images.Hold()()
	layers, _, err := b.images.Verify(ctx, digest)
	if err != nil {
		layers, _, err = b.images.Admit(ctx, layout, digest)
	}
	return layers, err
}

// warm has the builder's image ready before the first push: it takes seconds, and somebody would wait for them.
func (b *builds) warm(ctx context.Context) {
	layout := filepath.Join(b.config.Bases, "builder")
	digest, err := layoutDigest(layout)
	if err == nil {
		_, err = b.base(ctx, layout, digest)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Warn("the builder's image is not ready yet; the first build tries again", "error", err)
	}
}

// layoutDigest returns the one image of an OCI image layout.
func layoutDigest(dir string) (bulwark.Digest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return "", bulwark.Fail(bulwark.KindUnavailable, "The base images are not here.", "On the machine, run bulwark bases add with the file of the release.", err)
	}
	var index struct {
		Manifests []struct {
			Digest bulwark.Digest `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil || len(index.Manifests) != 1 {
		return "", fmt.Errorf("node: %s does not hold exactly one image: %w", dir, err)
	}
	return index.Manifests[0].Digest, nil
}
