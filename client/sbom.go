package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/bulwark-paas/bulwark"
)

// SBOM is a list of what the image of a build is made of. Provenance is the node's signed word, in which the document stands
// among the by-products, by media type and digest.
type SBOM struct {
	Build      uint64         `json:"build"`
	Image      bulwark.Digest `json:"image"`
	Format     string         `json:"format" doc:"spdx or cyclonedx"`
	MediaType  string         `json:"media_type"`
	Digest     bulwark.Digest `json:"digest"`
	Document   []byte         `json:"document"`
	Provenance []byte         `json:"provenance"`
}

// SBOM returns what the image of a build is made of, in the format spdx or cyclonedx.
func (c *Client) SBOM(ctx context.Context, app bulwark.AppName, number uint64, format string) (SBOM, error) {
	return ask[SBOM](ctx, c, http.MethodGet, "/apps/"+esc(string(app))+"/builds/"+strconv.FormatUint(number, 10)+"/sbom?format="+url.QueryEscape(format), nil)
}
