// validatorUrl: without null, Swagger UI sends the document to a server of its makers.
SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});
