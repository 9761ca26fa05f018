"""HTTP: endpoints declared on methods, a router, typed requests, the site that serves them over twisted.web."""
