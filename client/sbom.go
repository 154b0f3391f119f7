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

// Packages says which releases that serve contain a package.
type Packages struct {
	Found   []PackageFound    `json:"found"`
	Unknown []bulwark.AppName `json:"unknown" doc:"apps whose image could not be looked into in whole"`
}

// PackageFound is a package in a release that serves.
type PackageFound struct {
	App     bulwark.AppName `json:"app"`
	Release uint64          `json:"release"`
	Image   bulwark.Digest  `json:"image"`
	Kind    string          `json:"kind" doc:"deb, golang, npm, pypi, node"`
	Name    string          `json:"name"`
	Version string          `json:"version,omitempty"`
	URL     string          `json:"url" doc:"package URL"`
}

// Packages finds a package by its name, or by that of the Debian source that it was made of, in the apps that one may look at; version
// may be empty.
func (c *Client) Packages(ctx context.Context, name, version string) (Packages, error) {
	q := url.Values{"name": {name}}
	if version != "" {
		q.Set("version", version)
	}
	return ask[Packages](ctx, c, http.MethodGet, "/packages?"+q.Encode(), nil)
}
